"""Build the C kernel where there is a compiler; everything else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import Extension, setup

# Without -fassociative-math: it undoes the sums in pairs, and with them half of the precision.
GCC = [
    "-O3",
    "-std=gnu11",
    "-fno-signed-zeros",
    "-fno-trapping-math",
    "-fno-math-errno",
]
SOURCES = Path("normprobe/kernels/csrc")
HEADERS = sorted(map(str, SOURCES.rglob("*.h")))
OPENMP = ["-fopenmp"] if sys.platform == "linux" else []

setup(
    ext_modules=[
        Extension(
            "normprobe.kernels._cpu",
            sources=[str(SOURCES / "module.c")],
            include_dirs=[str(SOURCES)],
            depends=HEADERS,
            extra_compile_args=["/O2"] if sys.platform == "win32" else [*GCC, *OPENMP],
            extra_link_args=OPENMP,
            py_limited_api=True,
            # Without a compiler the package installs all the same and measures with plain torch.
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
