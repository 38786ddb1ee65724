"""Wording in one file per text: what a reader sees is compared with it whole, case by case.

With NORMPROBE_WRITE_GOLDEN=1 in the environment the files are written instead; read the difference before
it is committed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_HEAD = re.compile(r"^=== (.+)$\n", re.MULTILINE)


def golden(file: Path, case: str, text: str) -> None:
    """Compare a text with what a file has for a case."""
    pieces = _HEAD.split(file.read_text("utf-8")) if file.is_file() else [""]
    known = dict(zip(pieces[1::2], (text.removesuffix("\n\n") for text in pieces[2::2]), strict=True))
    if os.environ.get("NORMPROBE_WRITE_GOLDEN") == "1":
        known[case] = text
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(f"=== {name}\n{known[name]}\n\n" for name in sorted(known)), "utf-8")
    assert text == known.get(case, f"nothing: {file.name} has no case {case!r}")
