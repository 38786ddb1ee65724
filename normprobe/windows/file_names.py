"""How the files of windows are named, by which a folder of them is known."""

from __future__ import annotations

import re
from hashlib import blake2b
from pathlib import Path

PATTERN = "window-*.normprobe"
ROLLUP_PATTERN = "rollup-*.normprobe"


def holds_windows(path: str | Path) -> bool:
    """Whether a path is a folder with windows of a run."""
    folder = Path(path)
    try:
        return folder.is_dir() and next(folder.glob(PATTERN), None) is not None
    except OSError:  # a name that no file can have
        return False


def file_name(part: str, first_call: int) -> str:
    """The name of a window's file by part and first forward, by which the files of a part are in order."""
    return f"window-{_of_part(part)}-{first_call:012d}.normprobe"


def rollup_name(part: str, first_call: int) -> str:
    """The name of the file that stands for many windows, by part and first forward."""
    return f"rollup-{_of_part(part)}-{first_call:012d}.normprobe"


def _of_part(part: str) -> str:
    digest = blake2b(part.encode("utf-8", "surrogatepass"), digest_size=3).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", part)[:24]
    return f"{readable}-{digest}"
