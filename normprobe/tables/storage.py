"""Recordings on disk: one zip file of Parquet tables and JSON.

Nothing in a file is executed on loading, and nothing is believed: it may hold no more than lies on the
disk, every column has its type, and what the tables say of one another is checked.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from normprobe.errors import RecordingError
from normprobe.tables.columns.tables import BASE, OPTIONAL, POWERS, base_columns, missing
from normprobe.tables.export import atomically
from normprobe.tables.frames import Tables
from normprobe.tables.validate import check_meta, check_tables

# A column that older files lack needs no new number: `OPTIONAL` names it, and it reads as NaN.
FORMAT = 1
_MAGIC = "normprobe recording"
_JSON = "recording.json"
_NAME = "name a file that Recording.save wrote"
_VALUES = "row_values"
_NOT_ALWAYS = frozenset(
    ("parameter_moments", "bin_counts", "expert_places", "expert_moments", "group_sites", "group_moments")
)
"""Tables that a recording has where gradients, quantiles, experts or groups were; others know none."""
_TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "Int64": pa.int64(),
    "float64": pa.float64(),
    "boolean": pa.bool_(),
}
_NULLABLE: dict[str, Any] = {
    "Int64": pd.Int64Dtype(),
    "string": pd.StringDtype(),
    "boolean": pd.BooleanDtype(),
}
_Read = TypeVar("_Read")
_FREE = 64 << 20
_RATIO = 100
"""A table may fill 64 MiB, or a hundred times its bytes on disk."""


def save_tables(
    tables: Tables,
    path: str | Path,
    *,
    labels: bool = False,
    further: Mapping[str, pd.DataFrame] | None = None,
    columns: Mapping[str, Mapping[str, str]] | None = None,
) -> Path:
    """Write a recording; the file is replaced at once or not at all.

    Args:
        tables: the recording.
        path: the file.
        labels: whether to write the texts of samples, too.
        further: frames beside the tables, by name, which `load_tables` passes over and `load_further` reads.
        columns: the dtype of each of their columns.

    Raises:
        RecordingError: the file cannot be written.
    """
    about = {"format": _MAGIC, "version": FORMAT, "meta": tables.meta}
    every = {name: getattr(tables, name) for name in BASE}
    frames = {name: _to_arrow(frame, base_columns(name, frame)) for name, frame in every.items()}
    # Older versions refuse nothing then.
    for name in _NOT_ALWAYS:
        if getattr(tables, name).empty:
            del frames[name]
    if not labels:
        frames["labels_base"] = frames["labels_base"].slice(0, 0)
    frames[_VALUES] = pa.table({"value": tables.row_values})
    frames |= {name: _to_arrow(frame, (columns or {})[name]) for name, frame in (further or {}).items()}

    def write(handle: Any) -> None:
        # Parquet is compressed already; and stored entries cannot declare more bytes than lie on the disk.
        with zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
            _add(archive, _JSON, json.dumps(about, indent=1, allow_nan=False).encode())
            for name, table in frames.items():
                _add(archive, f"{name}.parquet", _to_parquet(table))

    return atomically(path, write)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Add an entry without a date: saving a recording again gives the same bytes."""
    entry = zipfile.ZipInfo(name)
    # As files usually are: without it unzip gives them to their owner alone.
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)


def _to_arrow(frame: pd.DataFrame, columns: Mapping[str, str]) -> Any:
    schema = pa.schema([(column, _TYPES[kind]) for column, kind in columns.items()])
    # Without pandas' metadata, which name its version: a file's bytes depend on the numbers alone.
    return pa.Table.from_pandas(frame, schema, preserve_index=False).replace_schema_metadata(None)


def _to_parquet(table: Any) -> bytes:
    """A table as bytes; one so uniform that loading would take it for a bomb is left uncompressed."""
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    # No dictionary of floats, which hardly repeat: it is given up after ten times the time of writing.
    whole = [field.name for field in table.schema if not pa.types.is_floating(field.type)]
    for options in ({"compression": "zstd", "use_dictionary": whole}, plain):
        buffer = io.BytesIO()
        pq.write_table(table, buffer, **options)
        if _fits(table.num_rows * len(table.schema), len(buffer.getvalue())):
            break
    return buffer.getvalue()


def _fits(numbers: int, size: int) -> bool:
    """Whether so many numbers may come from so many bytes."""
    return numbers * 8 <= max(_FREE, _RATIO * size)


def load_tables(path: Path) -> Tables:
    """Read a recording.

    Raises:
        RecordingError: the file is missing, damaged, foreign, too large, or of a newer format.
    """
    return _opened(path, _read)


def load_meta(path: Path) -> dict[str, Any]:
    """Read of a recording what is no table: model, data, counts, options, windows.

    Raises:
        RecordingError: as for `load_tables`.
    """
    return _opened(path, _read_meta)


def load_further(path: Path, columns: Mapping[str, Mapping[str, str]]) -> dict[str, pd.DataFrame]:
    """Read the frames that were written beside the tables of a recording.

    Args:
        path: the file.
        columns: which frames, and the dtype of each of their columns.

    Raises:
        RecordingError: as for `load_tables`.
    """
    return _opened(
        path, lambda archive, file: {name: _frame(archive, name, file, columns[name]) for name in columns}
    )


def _opened(path: Path, read: Callable[[zipfile.ZipFile, Path], _Read]) -> _Read:
    """What is read of a recording, or why nothing is."""
    try:
        if not path.exists():
            raise RecordingError(f"no recording at {path}; Recording.save writes one")
        if not path.is_file():
            what = "a folder" if path.is_dir() else "no regular file"
            raise RecordingError(f"{path} is {what}; a recording is one file, as Recording.save writes it")
        with zipfile.ZipFile(path) as archive:
            return read(archive, path)
    except RecordingError:
        raise
    except MemoryError as error:
        raise RecordingError(f"{path} does not fit into memory; load it on a larger machine") from error
    # The readers of zip, JSON and Parquet raise many types on damaged bytes; all mean the same to a user.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            reason = f"cannot read {path}: {error.strerror}; check that it may be read"
        else:
            reason = f"{path} is damaged or no recording ({_first_line(error)}); save it again"
        raise RecordingError(reason) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _read_meta(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    entries = archive.infolist()
    if _JSON not in archive.namelist():
        raise RecordingError(f"{path} is a zip file but no recording: it has no {_JSON}; {_NAME}")
    size = sum(entry.file_size for entry in entries)
    if size > path.stat().st_size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise RecordingError(
            f"{path} declares {size:,} bytes in {path.stat().st_size:,}; a recording is never compressed as "
            "a whole, so this is none, or was packed again: save it again"
        )
    meta: dict[str, Any] = _meta(json.loads(archive.read(_JSON)), path)
    return meta


def _read(archive: zipfile.ZipFile, path: Path) -> Tables:
    meta = _read_meta(archive, path)
    lacking = _NOT_ALWAYS - {name.removesuffix(".parquet") for name in archive.namelist()}
    frames: dict[str, Any] = {name: _base_frame(archive, name, path) for name in BASE if name not in lacking}
    tables = Tables(**frames, row_values=_values(archive, path), facts=meta)
    wrong = check_tables(tables)
    if wrong:
        raise RecordingError(f"{path} is damaged: {wrong}; save it again")
    return tables


def _meta(about: Any, path: Path) -> Any:
    if not isinstance(about, dict) or about.get("format") != _MAGIC:
        raise RecordingError(f"{path} is no normprobe recording: its {_JSON} does not say so; {_NAME}")
    version: Any = about.get("version")
    meta: Any = about.get("meta")
    if not isinstance(version, int) or not 1 <= version <= FORMAT:
        raise RecordingError(
            f"{path} has format {version!r}, this normprobe reads 1 to {FORMAT}; install a newer one"
        )
    wrong = check_meta(meta)
    if wrong:
        raise RecordingError(f"{path} is damaged: {wrong} in {_JSON}; save it again")
    return meta


def _parquet(archive: zipfile.ZipFile, name: str, path: Path, wanted: Mapping[str, Any]) -> Any:
    """Read one table, if its columns are those of a recording and its bytes can hold what it declares."""
    stored = archive.read(f"{name}.parquet")
    schema = pq.read_schema(io.BytesIO(stored))
    found = dict(zip(schema.names, schema.types, strict=True))
    lacking = (OPTIONAL.get(name, frozenset()) | set(POWERS)) - found.keys()
    for column in sorted((wanted.keys() | found.keys()) - lacking):
        # Of two columns of one name `found` holds one.
        if len(found) != len(schema) or found.get(column) not in wanted.get(column, ()):
            raise RecordingError(
                f"{path} has {found.get(column, 'nothing')} as {name}.{column}, "
                f"a recording {' or '.join(map(str, wanted.get(column, ('nothing',))))}; save it again"
            )
    # Texts stay in their dictionaries until it is known how long they all are together.
    texts = [column for column, kind in found.items() if kind == pa.string()]
    file = pq.ParquetFile(io.BytesIO(stored), read_dictionary=texts)
    numbers = file.metadata.num_rows * len(schema)
    if not _fits(numbers, len(stored)):
        raise RecordingError(
            f"{path} declares {numbers:,} entries of {name} in {len(stored):,} bytes: not read; save it again"
        )
    # Threads cost a small table more than they save.
    table = file.read(use_threads=len(stored) > 1 << 20)
    letters = sum(map(_letters, (chunk for column in texts for chunk in table.column(column).chunks)))
    if not _fits(letters // 8, len(stored)):
        raise RecordingError(
            f"{path} declares {letters:,} letters of {name} in {len(stored):,} bytes: not read; save it again"
        )
    table = table.cast(schema)
    # Reading a column checks neither its offsets nor that its texts are UTF-8.
    table.validate(full=True)
    return table


def _letters(chunk: Any) -> int:
    """How long the texts of a dictionary array are together."""
    lengths = pc.take(pc.binary_length(chunk.dictionary), chunk.indices)
    return int(pc.sum(lengths).as_py() or 0)


def _base_frame(archive: zipfile.ZipFile, name: str, path: Path) -> pd.DataFrame:
    """A table of a recording, with the columns of powers if it has them."""
    return _frame(archive, name, path, base_columns(name, POWERS))


def _frame(archive: zipfile.ZipFile, name: str, path: Path, every: Mapping[str, str]) -> pd.DataFrame:
    table = _parquet(archive, name, path, {column: (_TYPES[kind],) for column, kind in every.items()})
    columns = base_columns(name, table.column_names) if name in BASE else every
    for column, kind in columns.items():
        # Nulls would make floats of the integers, and NaN of what others index by.
        if kind == "int64" and table.column(column).null_count:
            raise RecordingError(f"{path} lacks entries of {name}.{column}; save it again")
    return pd.DataFrame(
        {
            column: _as_pandas(table.column(column), kind)
            if column in table.column_names
            else missing(kind, len(table))
            for column, kind in columns.items()
        }
    )


def _as_pandas(column: Any, kind: str) -> Any:
    """One column as an array of its dtype; what is missing in a float column is NaN."""
    return column.to_numpy() if kind in ("int64", "float64") else _NULLABLE[kind].__from_arrow__(column)


def _values(archive: zipfile.ZipFile, path: Path) -> Any:
    table = _parquet(archive, _VALUES, path, {"value": (pa.float32(), pa.float64())})
    return np.array(table.column("value").to_numpy())
