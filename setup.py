"""Build the C kernel where there is a compiler; everything else is in pyproject.toml."""

import os
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
# Without OpenMP's threads its vectors at least, which no library has to be there for.
GCC += OPENMP or ["-fopenmp-simd"]

setup(
    ext_modules=[
        Extension(
            "normprobe.kernels._cpu",
            sources=[str(SOURCES / "module.c")],
            include_dirs=[str(SOURCES)],
            depends=HEADERS,
            # C11, for `restrict`.
            extra_compile_args=["/O2", "/std:c11"] if sys.platform == "win32" else GCC,
            extra_link_args=OPENMP,
            py_limited_api=True,
            # Without a compiler the package installs all the same and measures with plain torch; a wheel that
            # is to be given to others must have the kernel.
            optional=os.environ.get("NORMPROBE_KERNEL") != "c",
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
