"""The small sets of English texts and of drawn images that ship with normprobe."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from normprobe.loading.inputs.sources import Images, Texts

_DATA = files("normprobe.loading.inputs") / "bundled_data"
_NAME = "the set that ships with normprobe"


def bundled_texts(limit: int | None) -> Texts:
    """The first ``limit`` (or all) of the texts that ship with normprobe, from 2 to about 90 words."""
    lines = (_DATA / "texts.txt").read_text(encoding="utf-8").split("\n")
    texts = [line for line in lines if line][:limit]
    return Texts(_NAME, tuple(texts), (), tuple(range(1, len(texts) + 1)))


def bundled_images(limit: int | None) -> Images:
    """The first ``limit`` (or all) of the images that ship with normprobe."""
    # The package may lie in a zip file; there the images are unpacked first.
    with as_file(_DATA / "images") as folder:
        files_in_order = sorted(Path(folder).glob("*.*"))[:limit]
    return Images(_NAME, tuple(files_in_order))
