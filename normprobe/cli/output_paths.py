"""Checks of where output is to be written, made before an hour is spent on measuring."""

from __future__ import annotations

import os
from pathlib import Path

from normprobe.errors import NormprobeError


def check_folder(option: str, path: Path) -> None:
    """Check that a folder can be made or written at a path.

    Args:
        option: the option that names it, for messages.
        path: the folder.

    Raises:
        NormprobeError: it is a file, below one, or not writable.
    """
    if path.exists() and not path.is_dir():
        raise NormprobeError(f"{option} {path} is a file; a folder was needed, existing or new")
    _check_writable(option, path, path)


def check_file(option: str, path: Path) -> None:
    """Check that a file can be written at a path.

    Args:
        option: the option that names it, for messages.
        path: the file.

    Raises:
        NormprobeError: it is a folder, in a folder that is not there, or not writable.
    """
    if path.is_dir():
        raise NormprobeError(f"{option} {path} is a folder; the name of a file was needed")
    if not path.parent.exists():
        raise NormprobeError(f"{option} {path}: there is no folder {path.parent}; make it first")
    _check_writable(option, path, path.parent)


def _check_writable(option: str, path: Path, start: Path) -> None:
    """Check that the innermost folder that exists, from ``start`` outwards, can be written to.

    Raises:
        NormprobeError: it cannot, or is a file.
    """
    existing = next(parent for parent in (start, *start.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise NormprobeError(f"{option} {path} cannot be written: {existing} is a file")
    # Both: without X nothing can be made in a folder, however writable.
    if not os.access(existing, os.W_OK | os.X_OK):
        raise NormprobeError(f"{option} {path} cannot be written: no permission to write in {existing}")
