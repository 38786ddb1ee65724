"""The formats of data files: which reader a file goes to.

A new format is one entry of `FORMATS` and its reader, which makes one of the sources of `sources`; messages
and the list of what is read follow from the entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from normprobe.errors import DataError
from normprobe.loading.constants import PICKLE_SUFFIXES
from normprobe.loading.inputs.sources import Images, Source
from normprobe.loading.inputs.tensor_files import read_npy, read_npz, read_safetensors
from normprobe.loading.inputs.text_files import read_csv, read_jsonl, read_parquet, read_txt

Content = Literal["text", "images", "tensors"]


@dataclass(frozen=True)
class Format:
    """A format of data files.

    Attributes:
        holds: what is read from it.
        suffixes: the endings of such files, lower-case, the usual one first.
        read: reads a file: path, column (None: the reader chooses), how many rows at most (None: all).
        has_columns: whether ``--column`` may name the one to read.
        name: what people are told to give; the usual ending by default.
    """

    holds: Content
    suffixes: tuple[str, ...]
    read: Callable[[Path, str | None, int | None], Source]
    has_columns: bool = False
    name: str = ""


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

FORMATS = (
    Format("text", (".txt",), lambda path, _, limit: read_txt(path, limit)),
    Format("text", (".jsonl", ".ndjson"), read_jsonl, has_columns=True),
    Format("text", (".csv", ".tsv"), read_csv, has_columns=True),
    Format("text", (".parquet",), read_parquet, has_columns=True),
    Format("images", IMAGE_SUFFIXES, lambda path, *_: Images(path.name, (path,)), name="a folder of images"),
    Format("tensors", (".npy",), lambda path, _, limit: read_npy(path, limit)),
    Format("tensors", (".npz",), lambda path, _, limit: read_npz(path, limit)),
    Format("tensors", (".safetensors",), lambda path, _, limit: read_safetensors(path, limit)),
)
"""Every format that is read, in the order in which messages name them."""

_BY_SUFFIX = {suffix: form for form in FORMATS for suffix in form.suffixes}


def any_of(names: Iterable[str]) -> str:
    """Names as a choice in words.

    >>> any_of([".txt", ".csv", ".parquet"])
    '.txt, .csv or .parquet'
    """
    return " or ".join(", ".join(names).rsplit(", ", 1))


def names_of(holds: Content) -> list[str]:
    """The names of the formats that hold this."""
    return [form.name or form.suffixes[0] for form in FORMATS if form.holds == holds]


_WITH_COLUMNS = any_of(form.suffixes[0] for form in FORMATS if form.has_columns)
_GIVE = "give " + any_of(
    [*(form.name or form.suffixes[0] for form in FORMATS), "module.py:callable that yields batches"]
)


def read_source(path: Path, column: str | None, limit: int | None) -> Source:
    """Read a file or a folder of images, in its own order.

    Args:
        path: the file or folder.
        column: which column of a table holds the text.
        limit: stop after so many texts, images or rows; None reads all.

    Raises:
        DataError: it is missing, empty, damaged, or of a form that is not read.
    """
    if path.is_dir():
        return _read_folder(path, column, limit)
    check_exists(path)
    # The ending decides, not the content: a text may begin with any bytes.
    suffix = path.suffix.lower()
    if suffix in PICKLE_SUFFIXES:
        raise DataError(
            f"{path} is a pickle file, and loading one runs whatever code it holds; save the tensors as "
            ".safetensors, .npy or .npz, or give module.py:callable that yields batches"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    form = _BY_SUFFIX.get(suffix)
    if column is not None and not (form is not None and form.has_columns):
        raise DataError(f"--column {column} goes with {_WITH_COLUMNS}; {path.name} has no columns")
    if form is None:
        raise DataError(f"{path} has the ending {suffix!r}, which is not read; {_GIVE}")
    try:
        return form.read(path, column, limit)
    except OSError as cause:
        raise DataError(f"{path} cannot be read: {cause.strerror or cause}") from cause


def check_exists(path: Path) -> None:
    """Check that there is something at a path.

    Raises:
        DataError: there is no such file or folder.
    """
    if not path.exists():
        raise DataError(f"--data {path} does not exist; {_GIVE}")


def _read_folder(path: Path, column: str | None, limit: int | None) -> Images:
    """The images of a folder and of those inside it, in the order of their names.

    Raises:
        DataError: there is none, or a column was asked for.
    """
    if column is not None:
        raise DataError(f"--column {column} goes with {_WITH_COLUMNS}; {path} is a folder")
    files = sorted(
        file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
    )
    if not files:
        raise DataError(f"{path} is a folder without images ({', '.join(sorted(IMAGE_SUFFIXES))}); {_GIVE}")
    # Resolved, as `.` and `..` name nothing.
    return Images(f"{path.resolve().name}/", tuple(files[:limit]))
