"""How the files of windows are named, by which a folder of them is known."""

from __future__ import annotations

import re
from hashlib import blake2b
from pathlib import Path

PATTERN = "window-*.normprobe"


def holds_windows(path: str | Path) -> bool:
    """Whether a path is a folder with windows of a run."""
    folder = Path(path)
    try:
        return folder.is_dir() and next(folder.glob(PATTERN), None) is not None
    except OSError:  # a name that no file can have
        return False


def file_name(part: str, first_call: int) -> str:
    """A name by part and first forward, by which the files of a part are in order."""
    digest = blake2b(part.encode("utf-8", "surrogatepass"), digest_size=3).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", part)[:24]
    return f"window-{readable}-{digest}-{first_call:012d}.normprobe"
