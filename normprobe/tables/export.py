"""Tables written for other programs, CSV or Parquet, each file replaced at once or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from normprobe.errors import NormprobeError, RecordingError
from normprobe.tables.atomic_files import replace_file

FORMS = ("auto", "csv", "parquet", "none")
"""How tables may be written beside a report."""

_LARGE = ("features", "samples")
"""Tables of a row per feature or sample: as CSV tens of megabytes, which no person opens."""


def atomically(path: str | Path, write: Callable[[Any], None]) -> Path:
    """Write a file whole or not at all, and return its path.

    Raises:
        RecordingError: the file cannot be written.
    """
    target = Path(path)
    try:
        replace_file(target, write)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecordingError(f"cannot write {target}: {reason}; choose a path that can be written") from error
    return target


def write_csv(frames: Mapping[str, pd.DataFrame], directory: str | Path) -> list[Path]:
    """Write each frame as a CSV file in a directory; floats keep every digit, missing entries are empty.

    Raises:
        RecordingError: the directory cannot be written.
    """
    return _export(frames, directory, "csv", _to_csv)


def write_parquet(frames: Mapping[str, pd.DataFrame], directory: str | Path) -> list[Path]:
    """Write each frame as a Parquet file in a directory.

    Raises:
        RecordingError: the directory cannot be written.
    """
    return _export(frames, directory, "parquet", _to_parquet)


def write_tables(frames: Mapping[str, pd.DataFrame], directory: str | Path, form: str) -> list[Path]:
    """Write the tables that lie beside a report.

    Args:
        frames: the tables by name.
        directory: the report's folder.
        form: "csv" or "parquet" for all, "none" for none; "auto" writes the two large ones (features and
            samples) as Parquet, the others, which a person opens, as CSV.

    Raises:
        NormprobeError: ``form`` is none of these.
        RecordingError: the directory cannot be written.
    """
    if form not in FORMS:
        raise NormprobeError(f"tables is one of {', '.join(FORMS)}, got {form!r}")
    large = {"auto": _LARGE, "csv": (), "parquet": tuple(frames), "none": ()}[form]
    small = [] if form == "none" else [name for name in frames if name not in large]
    return [
        *write_csv({name: frames[name] for name in small}, directory),
        *write_parquet({name: frames[name] for name in frames if name in large}, directory),
    ]


def _export(
    frames: Mapping[str, pd.DataFrame],
    directory: str | Path,
    ending: str,
    write: Callable[[pd.DataFrame, Any], None],
) -> list[Path]:
    folder = Path(directory)
    if os.path.isfile(folder):  # noqa: PTH113 - Path.is_file raises on a name too long
        raise RecordingError(f"cannot write into {folder}: it is a file; name a folder")
    paths = {name: folder / f"{name}.{ending}" for name in frames}
    return [atomically(paths[name], partial(write, frame)) for name, frame in frames.items()]


def _to_csv(frame: pd.DataFrame, handle: Any) -> None:
    """Write with Arrow, which is ten times faster; pandas where a text needs quotes."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    # Numbers need no quotes, and of the names there are few different ones.
    names = [table.column(field.name) for field in table.schema if not _is_number(field.type)]
    # Either way the same texts are written: one comma in a name changes no digit of the file.
    if any(pc.any(pc.match_substring_regex(pc.unique(text), '[",\r\n]')).as_py() for text in names):
        texts = {name: _as_text(table.column(name)) for name in table.column_names}
        pa.table(texts).to_pandas().to_csv(handle, index=False)
    else:
        # By hand, as Arrow puts names of columns in quotes whatever the style; another style would do so with
        # the numbers, too, where they are texts.
        handle.write((",".join(table.column_names) + "\n").encode())
        columns = {name: _as_written(table.column(name)) for name in table.column_names}
        options = csv.WriteOptions(include_header=False, quoting_style="none")
        csv.write_csv(pa.table(columns), handle, options)


def _to_parquet(frame: pd.DataFrame, handle: Any) -> None:
    # Floats are hardly ever the same twice: to look for that takes half of the writing.
    repeated = [name for name, dtype in frame.dtypes.items() if not pd.api.types.is_float_dtype(dtype)]
    frame.to_parquet(handle, index=False, use_dictionary=repeated)


def _as_written(column: Any) -> Any:
    """A column of which Arrow writes what `_as_text` says: itself, or its texts."""
    return _as_text(column) if _has_whole_floats(column) else column


def _has_whole_floats(column: Any) -> bool:
    """Whether a column is of floats of which one is whole."""
    whole = pa.types.is_floating(column.type) and pc.any(pc.equal(pc.floor(column), column)).as_py()
    return bool(whole)


def _as_text(column: Any) -> Any:
    """A column as text; a whole float keeps its `.0`, by which readers tell it from an integer."""
    text = pc.cast(column, pa.string())
    # The search takes longer than to look whether there is any whole number.
    if not _has_whole_floats(column):
        return text
    return pc.replace_substring_regex(text, pattern=r"^(-?[0-9]+)$", replacement=r"\1.0")


def _is_number(kind: Any) -> bool:
    """Whether a column's texts hold digits, signs and letters only."""
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))
