"""Recordings on disk: one zip file of Parquet tables and JSON, and CSV or Parquet exports.

Nothing in a file is executed on loading, and nothing is believed: entries are stored uncompressed, their
sizes and the tables' row counts are bounded before they are read, and every column is checked.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from normprobe.errors import RecordingError
from normprobe.tables import Tables
from normprobe.tables.schema import BASE, based

FORMAT = 1
_MAGIC = "normprobe recording"
_MOST_BYTES = 4 << 30
_MOST_ROWS = 100_000_000


def save_tables(tables: Tables, path: str | Path, *, labels: bool = False) -> Path:
    """Write a recording; the file is replaced at once or not at all.

    Raises:
        RecordingError: the file cannot be written.
    """
    target = Path(path)
    about = {"format": _MAGIC, "version": FORMAT, "meta": dict(tables.meta)}

    def write(handle: Any) -> None:
        with zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("recording.json", json.dumps(about, indent=1, allow_nan=False))
            for name in BASE:
                if name != "labels" or labels:
                    archive.writestr(f"{name}.parquet", _to_parquet(getattr(tables, name)))

    atomically(target, write)
    return target


def atomically(target: Path, write: Callable[[Any], None]) -> None:
    """Write a file under a temporary name beside it, then rename.

    Raises:
        RecordingError: the file cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a directory")
        with tempfile.NamedTemporaryFile(
            dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as handle:
            temporary = Path(handle.name)
            try:
                write(handle)
                handle.flush()
                os.fsync(handle.fileno())
                os.chmod(temporary, 0o666 & ~_umask())
                os.replace(temporary, target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise RecordingError(f"cannot write {target}: {reason}; choose a path that can be written") from error


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _to_parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    if "values" in frame:
        lists = pa.array([np.asarray(row, np.float64) for row in frame["values"]], pa.list_(pa.float64()))
        table = pa.Table.from_pandas(frame.drop(columns="values"), preserve_index=False)
        table = table.append_column("values", lists)
    else:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), buffer, compression="zstd")
    return buffer.getvalue()


def load_tables(path: Path) -> Tables:
    """Read a recording.

    Raises:
        RecordingError: the file is missing, damaged, foreign, too large, or of a newer format.
    """
    if not path.exists():
        raise RecordingError(f"no recording at {path}; Recording.save writes one")
    if path.is_dir():
        raise RecordingError(f"{path} is a directory; a recording is one file, as Recording.save writes it")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path)
    except RecordingError:
        raise
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise RecordingError(f"{path} does not fit into memory") from error
    # The readers of zip, JSON and Parquet raise many types on damaged bytes; all mean the same to a user.
    except Exception as error:
        raise RecordingError(
            f"{path} is damaged or no recording ({_first_line(error)}); save it again"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _read(archive: zipfile.ZipFile, path: Path) -> Tables:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if "recording.json" not in entries:
        raise RecordingError(f"{path} is a zip file but no recording: it has no recording.json")
    size = sum(entry.file_size for entry in entries.values())
    if size > _MOST_BYTES or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise RecordingError(f"{path} is no recording of ours: {size:,} bytes, compressed or over the limit")
    about = json.loads(archive.read("recording.json"))
    if (
        not isinstance(about, dict)
        or about.get("format") != _MAGIC
        or not isinstance(about.get("meta"), dict)
    ):
        raise RecordingError(f"{path} is not a normprobe recording")
    if not isinstance(about.get("version"), int) or about["version"] > FORMAT:
        raise RecordingError(
            f"{path} has format {about.get('version')!r}, this normprobe reads up to {FORMAT}; install a newer one"
        )
    frames = {
        name: _frame(archive, name, path) for name in BASE if name != "labels" or "labels.parquet" in entries
    }
    frames.setdefault("labels", based("labels", pd.DataFrame({name: [] for name in BASE["labels"]})))
    _check(frames, about["meta"], path)
    return Tables(**frames, meta=about["meta"])


def _frame(archive: zipfile.ZipFile, name: str, path: Path) -> pd.DataFrame:
    parquet = pq.ParquetFile(io.BytesIO(archive.read(f"{name}.parquet")))
    about = parquet.metadata
    declared = sum(about.row_group(index).total_byte_size for index in range(about.num_row_groups))
    if about.num_rows > _MOST_ROWS or declared > _MOST_BYTES:
        raise RecordingError(f"{path} declares {about.num_rows:,} rows in {name}: over the limit, not read")
    if set(about.schema.to_arrow_schema().names) != set(BASE[name]):
        raise RecordingError(f"{path} has other columns in {name} than a recording; save it again")
    return based(name, parquet.read().to_pandas())


def _check(frames: Mapping[str, pd.DataFrame], meta: Mapping[str, Any], path: Path) -> None:
    """Refuse tables that do not belong together."""
    known = set(frames["ledger_base"]["layer"])
    for name in ("sites", "feature_moments", "sample_moments", "rows"):
        if not set(frames[name]["layer"]) <= known:
            raise RecordingError(f"{path} names layers in {name} that its ledger lacks; save it again")
    sites, features = frames["sites"], frames["feature_moments"]
    widths = features.groupby(["layer", "site"], sort=False).size()
    declared = sites.set_index(["layer", "site"])["n_features"]
    if not declared.index.is_unique or not widths.equals(declared[declared > 0].reindex(widths.index)):
        raise RecordingError(f"{path} has other features than its layers declare; save it again")
    wanted = {"parts": list, "options": dict, "versions": dict, "model": str, "digests": dict}
    wrong = [name for name, kind in wanted.items() if not isinstance(meta.get(name), kind)]
    if wrong:
        raise RecordingError(f"{path} lacks {', '.join(wrong)} in recording.json; save it again")


def write_csv(frames: Mapping[str, pd.DataFrame], directory: str | Path) -> list[Path]:
    """Write each frame as a CSV file in a directory; floats keep every digit.

    Raises:
        RecordingError: the directory cannot be written.
    """
    return _export(frames, directory, "csv", lambda frame, handle: frame.to_csv(handle, index=False))


def write_parquet(frames: Mapping[str, pd.DataFrame], directory: str | Path) -> list[Path]:
    """Write each frame as a Parquet file in a directory.

    Raises:
        RecordingError: the directory cannot be written.
    """
    return _export(frames, directory, "parquet", lambda frame, handle: frame.to_parquet(handle, index=False))


def _export(
    frames: Mapping[str, pd.DataFrame],
    directory: str | Path,
    ending: str,
    write: Callable[[pd.DataFrame, Any], None],
) -> list[Path]:
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise RecordingError(f"cannot write into {folder}: it is a file; name a folder")
    paths = [folder / f"{name}.{ending}" for name in frames]
    for path, frame in zip(paths, frames.values(), strict=True):
        atomically(path, lambda handle, frame=frame: write(frame, handle))
    return paths
