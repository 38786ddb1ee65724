"""Writing a file so that a reader finds the old one or the new one, never half of one."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

_PREFIX = ".normprobe-"


def replace_file(target: Path, write: Callable[[Any], None]) -> None:
    """Write a file under a temporary name beside its place, then rename it.

    Args:
        target: where it goes; a link stays a link, and what it points to is replaced. Its folder is created.
        write: receives the open binary file, whose ``name`` is the temporary path.

    Raises:
        OSError: the target is no regular file, or it cannot be written; nothing is left of the attempt.
        ValueError: the path is none.
    """
    # Not Path.resolve: at a loop of links it raises RuntimeError before Python 3.13, which no caller expects.
    place = Path(os.path.realpath(target))
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        raise IsADirectoryError("it is a folder")
    # The rename would succeed, and put a plain file where the pipe or device was.
    if place.exists() and not place.is_file():
        raise OSError("it is no regular file")
    remove_leftovers(place.parent, _PREFIX)
    descriptor, name = tempfile.mkstemp(prefix=prefix_of_process(_PREFIX), dir=place.parent)
    # Opened anew below: the `name` of what os.fdopen gives is a number, and safetensors asks for a path.
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
        _sync_folder(place.parent)
    # Ctrl-C, too, is to leave nothing behind.
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Have the disk know the folder's new entry: after a crash of the machine it would lack the file."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems refuse it; the file itself is written
        pass
    finally:
        os.close(descriptor)


def prefix_of_process(prefix: str) -> str:
    """How temporary names of this process begin: with a prefix, the machine and the process."""
    # The machine, as folders may be shared and process numbers are its own; crc32, as hash() differs in each
    # process.
    return f"{prefix}{crc32(socket.gethostname().encode()):08x}-{os.getpid()}-"


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove what writers that were killed left in a folder under such names.

    Only those of this machine, and of processes that are no more: others may be writing.
    """
    own = prefix_of_process(prefix).rpartition(f"{os.getpid()}-")[0]
    # On Windows os.kill asks nothing: it sends signal 0 as CTRL_C_EVENT.
    for left in folder.glob(f"{own}*") if os.name == "posix" else ():
        process = left.name.removeprefix(own).partition("-")[0]
        if process.isdecimal() and not _is_alive(int(process)):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    """Whether there is such a process, on a system where signal 0 asks that and does nothing."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


def _umask() -> int:
    """The process's umask, which can be read only by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
