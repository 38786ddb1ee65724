"""Whether output can be written, asked before an hour is spent on measuring."""

from __future__ import annotations

import os
from pathlib import Path

from normprobe.errors import NormprobeError


def check_folder(option: str, path: Path) -> Path:
    """``path`` if a folder can be made or written there.

    Raises:
        NormprobeError: it is a file, below one, or not writable.
    """
    if path.exists() and not path.is_dir():
        raise NormprobeError(f"{option} {path} is a file; a folder was needed, existing or new")
    _check_parent(option, path, path)
    return path


def check_file(option: str, path: Path) -> Path:
    """``path`` if a file can be written there.

    Raises:
        NormprobeError: it is a folder, in a folder that is not there, or not writable.
    """
    if path.is_dir():
        raise NormprobeError(f"{option} {path} is a folder; the name of a file was needed")
    if not path.parent.exists():
        raise NormprobeError(f"{option} {path}: there is no folder {path.parent}; make it first")
    _check_parent(option, path, path.parent)
    return path


def _check_parent(option: str, path: Path, start: Path) -> None:
    there = next(parent for parent in (start, *start.absolute().parents) if parent.exists())
    if not there.is_dir():
        raise NormprobeError(f"{option} {path} cannot be written: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise NormprobeError(f"{option} {path} cannot be written: no permission to write in {there}")
