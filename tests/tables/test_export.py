"""CSV and Parquet files: read back equal by three readers, written whole, and beside what was there."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
from torch import nn

import normprobe
from normprobe.errors import RecordingError
from normprobe.findings import find
from normprobe.recording import Recording
from normprobe.tables import atomic_files, export
from normprobe.tables.export import atomically, write_csv, write_parquet
from tests.helpers.recordings import batches, net, recorded

NAMES = ["layers", "features", "samples", "ledger", "findings", "outliers"]
# What pandas does anyway from 3.0 on; before, its reader was off by some units in the last place.
# Asking for it is deprecated since.
EXACT: Any = {"float_precision": "round_trip"} if int(pd.__version__.partition(".")[0]) < 3 else {}
POLARS = {
    "string": pl.String,
    "float64": pl.Float64,
    "int64": pl.Int64,
    "Int64": pl.Int64,
    "boolean": pl.Boolean,
}
DUCKDB = {
    "string": "VARCHAR",
    "float64": "DOUBLE",
    "int64": "BIGINT",
    "Int64": "BIGINT",
    "boolean": "BOOLEAN",
}


def frames(recording: Recording) -> dict[str, pd.DataFrame]:
    tables = {name: getattr(recording, name) for name in NAMES[:-2]}
    return tables | {"findings": find(recording.tables), "outliers": recording.outliers()}


def comparable(frame: pd.DataFrame) -> pd.DataFrame:
    """Missing text is an empty field in a file: the two read alike."""
    texts = frame.select_dtypes("string").columns
    return frame.assign(**{name: frame[name].fillna("") for name in texts})


def kinds(frame: pd.DataFrame) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in frame.dtypes.items()}


def by_pandas(path: Path, like: pd.DataFrame) -> pd.DataFrame:
    numbers = {name: [""] for name, kind in kinds(like).items() if kind != "string"}
    return pd.read_csv(path, dtype=kinds(like), keep_default_na=False, na_values=numbers, **EXACT)


def by_polars(path: Path, like: pd.DataFrame) -> pd.DataFrame:
    types = {name: POLARS[kind] for name, kind in kinds(like).items()}
    return pl.read_csv(path, schema_overrides=types).to_pandas()


def by_duckdb(path: Path, like: pd.DataFrame) -> pd.DataFrame:
    types = {name: DUCKDB[kind] for name, kind in kinds(like).items()}
    return duckdb.sql(f"select * from read_csv('{path}', header=true, types={types})").df()


FRAMES = {"layers": pd.DataFrame({"layer": ["x"], "mean": [1.0]})}
MLP = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 1))


class Odd(nn.Module):
    """Layers whose names a reader may take for numbers, for missing, or for two columns."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({name: nn.Linear(6, 6) for name in ("NA", "null", "1", 'a,"b"', "a\nb")})

    def forward(self, x: Any) -> Any:
        for layer in self.inner.values():
            x = layer(x) * float("inf")
        return x


CASES: dict[str, Any] = {
    "net": recorded,
    "numbers as names": lambda: normprobe.record(MLP, batches(), part="1"),
    "odd names, no finite values": lambda: normprobe.record(Odd(), batches(), part="x,y"),
    "the model is the layer": lambda: normprobe.record(nn.LayerNorm(6), batches()),
    "nothing measured": lambda: normprobe.Probe(net()).recording,
}


@pytest.mark.parametrize("case", CASES)
def test_csv_is_read_back_equal_by_pandas_polars_and_duckdb(case: str, tmp_path: Path) -> None:
    recording = CASES[case]()
    expected = frames(recording)
    paths = recording.to_csv(tmp_path / "stats")
    assert [path.name for path in paths] == [f"{name}.csv" for name in NAMES]
    for path, (name, frame) in zip(paths, expected.items(), strict=True):
        for read in (by_pandas, by_polars, by_duckdb):
            if read is by_duckdb and not len(frame):
                continue
            found = read(path, frame)
            assert list(found.columns) == list(frame.columns)
            found = comparable(found.astype(kinds(frame)))
            pd.testing.assert_frame_equal(
                found, comparable(frame), check_exact=True, obj=f"{name} {read.__name__}"
            )


@pytest.mark.parametrize("case", CASES)
def test_parquet_is_read_back_equal_by_pandas_polars_and_duckdb(case: str, tmp_path: Path) -> None:
    recording = CASES[case]()
    paths = recording.to_parquet(tmp_path)
    assert [path.name for path in paths] == [f"{name}.parquet" for name in NAMES]
    for path, frame in zip(paths, frames(recording).values(), strict=True):
        pd.testing.assert_frame_equal(pd.read_parquet(path), frame)
        others = [pl.read_parquet(path).to_pandas(), duckdb.sql(f"select * from '{path}'").df()]
        for other in others:
            pd.testing.assert_frame_equal(other.astype(kinds(frame)), frame, check_exact=True)


def test_plain_readers_guess_the_types(tmp_path: Path) -> None:
    """Floats that begin whole must not be read as integers: polars fails at the first fraction."""
    frame = pd.DataFrame({"name": ["x"] * 300, "share": [0.0] * 200 + [0.25] * 100, "weight": 1.0, "n": 7})
    frame["tiny"], frame["yes"] = (
        np.geomspace(1e-300, 1e300, 300),
        pd.array([True, None, False] * 100, "boolean"),
    )
    (path,) = write_csv({"frame": frame}, tmp_path)
    dtypes = dict(pl.read_csv(path).schema)
    assert dtypes == {
        **{"name": pl.String, "share": pl.Float64, "weight": pl.Float64, "n": pl.Int64},
        **{"tiny": pl.Float64, "yes": pl.Boolean},
    }
    read = pd.read_csv(path, **EXACT)
    assert [str(read[name].dtype) for name in ("share", "weight", "n")] == ["float64", "float64", "int64"]
    np.testing.assert_array_equal(read["tiny"], frame["tiny"])


def test_a_text_that_needs_quotes_and_one_that_does_not_give_the_same_numbers(tmp_path: Path) -> None:
    numbers = np.concatenate(
        [np.random.default_rng(0).normal(size=50) * 10.0 ** np.arange(-25, 25), [0.0, -0.0, 3e22]]
    )
    plain = pd.DataFrame({"name": "x", "value": numbers, "flag": pd.array([True] * len(numbers), "boolean")})
    (one,) = write_csv({"plain": plain}, tmp_path)
    (two,) = write_csv({"quoted": plain.assign(name='x,"y"')}, tmp_path)
    assert two.read_text().replace('"x,""y"""', "x") == one.read_text()
    np.testing.assert_array_equal(pd.read_csv(one, **EXACT)["value"], numbers)


def test_other_files_stay_and_ones_own_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("mine")
    (tmp_path / "layers.csv").write_text("old")
    (tmp_path / "sub").mkdir()
    recorded().to_csv(tmp_path)
    assert (tmp_path / "notes.csv").read_text() == "mine"
    assert (tmp_path / "layers.csv").read_text().startswith("layer,kind,type,site,")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["notes.csv", "sub", *(f"{n}.csv" for n in NAMES)]
    )


def test_every_file_goes_through_a_temporary_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where writing breaks off the old file stands, and no half-written one is left."""
    write_csv(FRAMES, tmp_path)
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def half(frame: pd.DataFrame, handle: Any) -> None:
        handle.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_to_csv", half)
    with pytest.raises(
        RecordingError, match=r"cannot write .*layers.csv: No space left on device; choose a path"
    ):
        write_csv(FRAMES, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = atomically(tmp_path / "x", lambda handle: handle.write(b"old"))

    def interrupted(handle: Any) -> None:
        handle.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomically(path, interrupted)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert path.read_bytes() == b"old"


def test_a_file_as_folder_is_an_error_in_words(tmp_path: Path) -> None:
    path = tmp_path / "stats"
    path.write_text("mine")
    for write in (write_csv, write_parquet):
        with pytest.raises(RecordingError) as caught:
            write(FRAMES, path)
        assert str(caught.value) == f"cannot write into {path}: it is a file; name a folder"
    with pytest.raises(
        RecordingError, match=r"cannot write .*: Not a directory; choose a path that can be written"
    ):
        write_csv(FRAMES, path / "below")
    assert path.read_text() == "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_folder_that_cannot_be_written_is_an_error_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    if os.geteuid() == 0:  # root may write anywhere: let the system call say no

        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise PermissionError(13, "Permission denied", str(locked))

        monkeypatch.setattr(atomic_files.tempfile, "mkstemp", refuse)
    else:
        locked.chmod(0o500)
    with pytest.raises(RecordingError) as caught:
        write_csv(FRAMES, locked)
    assert str(caught.value) == (
        f"cannot write {locked / 'layers.csv'}: Permission denied; choose a path that can be written"
    )


@pytest.mark.parametrize("name", ["x" * 300, "nul\0byte"])
def test_a_name_that_no_file_can_have_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordingError, match="cannot write"):
        write_csv(FRAMES, tmp_path / name)
    with pytest.raises(RecordingError, match="cannot write"):
        recorded().save(tmp_path / name)
    with pytest.raises(RecordingError, match=r"no recording at|cannot read"):
        normprobe.load(tmp_path / name)


def test_a_name_as_long_as_a_file_may_have_is_written(tmp_path: Path) -> None:
    path = recorded().save(tmp_path / ("x" * 255))
    assert normprobe.load(path).meta == recorded().meta | {"created": normprobe.load(path).meta["created"]}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
def test_modes_links_and_devices(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = recorded().save(tmp_path / "a.normprobe")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    link = tmp_path / "link"
    link.symlink_to(path)
    recorded(part="b").save(link)
    assert link.is_symlink()
    assert normprobe.load(path).meta["parts"] == ["b"]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(RecordingError, match="it is no regular file"):
        recorded().save(pipe)
    with pytest.raises(RecordingError, match="no regular file; a recording is one file"):
        normprobe.load(pipe)
