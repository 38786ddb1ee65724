"""The C kernel compiled with warnings as errors, and run under address and undefined-behaviour sanitizers."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "normprobe" / "kernels"
GCC = shutil.which("gcc")

pytestmark = pytest.mark.skipif(GCC is None, reason="gcc is needed to build the C kernel another way")


def build(target: Path, *flags: str) -> None:
    """Compile the kernel with these flags besides the installation's own."""
    given: dict[str, list[str]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **keywords: given.update(keywords))
        runpy.run_path(str(ROOT / "setup.py"))
    extension = given["ext_modules"][0]
    own = extension.extra_compile_args
    folders = [sysconfig.get_paths()["include"], *(str(ROOT / path) for path in extension.include_dirs)]
    include = [f"-I{folder}" for folder in folders]
    source = str(KERNELS / "csrc" / "module.c")
    command = ["gcc", *own, "-fPIC", "-shared", *include, *flags, "-o", str(target), source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_compiles_without_a_warning(tmp_path: Path) -> None:
    # PyWeakref_GetObject is deprecated since 3.13, but what replaces it is not in the limited API of 3.11.
    tolerated = ["-Wno-unknown-pragmas", "-Wno-deprecated-declarations"]
    build(tmp_path / "_cpu.so", "-Wall", "-Wextra", "-Werror", *tolerated)


def test_the_kernel_tests_pass_under_sanitizers(tmp_path: Path) -> None:
    copied = tmp_path / "normprobe"
    shutil.copytree(ROOT / "normprobe", copied, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    # Without clones for several processors: their resolvers may run before the sanitizer does.
    sanitized = copied / "kernels" / "_cpu.abi3.so"
    build(sanitized, "-O1", "-g", "-DNO_CLONES", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    runtimes = [
        subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    environment.pop("NORMPROBE_KERNEL", None)
    where = "import normprobe.kernels.cpu as c; print(c.AccumulatorState.__module__, c.__file__)"
    found = subprocess.check_output([sys.executable, "-c", where], text=True, env=environment, cwd=tmp_path)
    assert str(copied) in found
    # The sanitizer never hands out an address again, which that one test needs.
    chosen = (
        "compiled or any_tensor or channel_layouts or few_rows or ReadByTwo or AddedUp or test_accumulators"
    )
    chosen = f"({chosen}) and not address"
    names = (
        "kernels/test_kernels.py",
        "kernels/test_accumulator.py",
        "kernels/test_channel_layouts.py",
        "kernels/distributions/test_accumulators.py",
        "capture/test_engine.py",
    )
    tests = [str(ROOT / "tests" / name) for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-o", "pythonpath="]
    command += ["-k", chosen, *tests]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "passed" in done.stdout
