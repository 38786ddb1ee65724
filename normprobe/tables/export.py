"""Tables written for other programs, CSV or Parquet, each file replaced at once or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from normprobe.errors import RecordingError


def atomically(path: str | Path, write: Callable[[Any], None]) -> Path:
    """Write a file under a temporary name beside it, then rename; return its path.

    Raises:
        RecordingError: the file cannot be written.
    """
    target = Path(path)
    try:
        # A link stays a link: what it points to is replaced.
        place = Path(os.path.realpath(target))
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            raise IsADirectoryError("it is a folder")
        if place.exists() and not place.is_file():
            raise OSError("it is no regular file")
        _replace(place, write)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecordingError(f"cannot write {target}: {reason}; choose a path that can be written") from error
    return target


def _replace(place: Path, write: Callable[[Any], None]) -> None:
    descriptor, name = tempfile.mkstemp(prefix=".normprobe-", dir=place.parent)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


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
    texts = {name: _as_text(table.column(name)) for name in table.column_names}
    table = pa.table(texts)
    if any(pc.any(pc.match_substring_regex(text, '[",\r\n]')).as_py() for text in texts.values()):
        table.to_pandas().to_csv(handle, index=False)
    else:
        handle.write((",".join(texts) + "\n").encode())
        csv.write_csv(table, handle, csv.WriteOptions(include_header=False, quoting_style="none"))


def _to_parquet(frame: pd.DataFrame, handle: Any) -> None:
    frame.to_parquet(handle, index=False)


def _as_text(column: Any) -> Any:
    """A column as text; a whole float keeps its `.0`, by which readers tell it from an integer."""
    text = pc.cast(column, pa.string())
    if not pa.types.is_floating(column.type):
        return text
    return pc.replace_substring_regex(text, pattern=r"^(-?[0-9]+)$", replacement=r"\1.0")
