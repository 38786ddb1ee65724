"""Writing a file so that a reader finds the old one or the new one, never half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace_file(target: Path, write: Callable[[Any], None]) -> None:
    """Write a file under a temporary name beside its place, then rename it.

    Args:
        target: where it goes; a link stays a link, and what it points to is replaced. Its folder is created.
        write: receives the open binary file, whose ``name`` is the temporary path.

    Raises:
        OSError: the target is no regular file, or it cannot be written; nothing is left of the attempt.
        ValueError: the path is none.
    """
    place = Path(os.path.realpath(target))
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        raise IsADirectoryError("it is a folder")
    if place.exists() and not place.is_file():
        raise OSError("it is no regular file")
    descriptor, name = tempfile.mkstemp(prefix=".normprobe-", dir=place.parent)
    os.close(descriptor)
    try:
        with Path(name).open("wb") as handle:
            write(handle)
            handle.flush()
            # Without it a crash of the machine after the rename may leave an empty file in its place.
            os.fsync(handle.fileno())
        # mkstemp makes files that only their owner can read.
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    """The process's umask, which can be read only by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
