"""How names of layers and models, headings and cells of tables are shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

# Not any slash: of a hub's `org/model` both parts are the name.
_PATH = re.compile(r"[./~\\]|[A-Za-z]:[/\\]")
# Ends of paths that say nothing of the model: then the folder above is shown, too.
_ANY_MODEL = re.compile(r"models?|weights|final|best|checkpoints?([-_]\d+)?|[0-9a-f]{40}")


@dataclass(frozen=True)
class Value:
    """A number of the table: as shown, and as sorted (empty where the shown text sorts by itself)."""

    shown: str
    key: str


def text_or_empty(value: object) -> str:
    """The text of a cell of a frame; empty where it is missing."""
    return "" if pd.isna(value) else str(value)  # type: ignore[call-overload]


def display_name(tables: Tables, layer: str) -> str:
    """The name to show for a layer: its own, or the class of a model that is itself a layer."""
    return layer or str(tables.meta["model"])


def heading(name: str) -> str:
    """What to call a model in a heading: of a path its end, of any other name all.

    >>> heading("/models/smollm2/SmolLM2-135M.gguf"), heading("./run/checkpoint-100"), heading("org/model")
    ('SmolLM2-135M', 'run/checkpoint-100', 'org/model')

    Of weights beside it the folder stays, which is what tells one best.pt from another.

    >>> heading("./nets/cnn.py:build + /data/run3/best.pt")
    'cnn.py:build + run3/best.pt'
    """
    model, plus, weights = name.partition(" + ")
    if plus:
        parts = [part for part in re.split(r"[/\\]", weights) if part not in ("", ".", "..", "~")]
        return f"{heading(model)} + {'/'.join(parts[-2:])}"
    if not (_PATH.match(name) or name.endswith(".gguf")):
        return name
    # With the name in front, for paths of which no part is left, as of "./".
    *folders, last = [name, *(part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..", "~"))]
    last, folders = last.removesuffix(".gguf"), folders[1:]
    return f"{folders[-1]}/{last}" if folders and _ANY_MODEL.fullmatch(last) else last


def one_line_text(text: str) -> str:
    """Replace line breaks and control characters, which would break a terminal's lines, by blanks."""
    # Not only ASCII's: Unicode has separators of lines and marks that turn the direction of writing.
    return "".join(letter if letter.isprintable() else " " for letter in text)
