"""The frame of counts in bins: what of a file is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normprobe
from normprobe.errors import RecordingError
from normprobe.tables.distributions.bin_counts import ZERO, counts_at, merge_counts, no_counts
from normprobe.tables.storage import load_tables, save_tables
from tests.helpers.recordings import batches, net


def tables() -> Any:
    return normprobe.record(net(), batches(), quantiles=True, kurtosis=True).tables


def changed(column: str, row: int, by: int) -> Any:
    held = tables()
    counts = held.bin_counts.copy()
    counts.loc[counts.index[row], column] += by
    return replace(held, bin_counts=counts)


@pytest.mark.parametrize(
    ("column", "row", "by", "said"),
    [
        ("count", 3, 1, "other counts than its sites have numbers"),
        ("count", 3, -(10**6), "negative count in bin_counts"),
        ("place", -1, 50, "counts of unknown sites or bins"),
        ("bin", -1, 5000, "counts of unknown sites or bins"),
        ("bin", 2, -500, "counts out of order"),
    ],
)
def test_counts_that_cannot_be_are_refused(tmp_path: Path, column: str, row: int, by: int, said: str) -> None:
    path = save_tables(changed(column, row, by), tmp_path / "a.normprobe")
    with pytest.raises(RecordingError, match=said):
        load_tables(path)


def test_counts_of_one_place_and_of_none() -> None:
    held = tables()
    bins, counts = counts_at(held.bin_counts, 1)
    values = held.feature_moments["count"].to_numpy()
    assert (
        counts.sum() == values[held.sites["n_features"].iloc[0] :][: held.sites["n_features"].iloc[1]].sum()
    )
    assert (np.diff(bins) > 0).all()
    assert abs(bins).max() <= ZERO
    assert len(counts_at(held.bin_counts, -1)[0]) == 0


def test_counts_merge_by_adding() -> None:
    held = tables().bin_counts
    twice = merge_counts([held, held])
    assert twice[["place", "bin"]].equals(held[["place", "bin"]])
    assert (twice["count"] == 2 * held["count"]).all()
    assert merge_counts([no_counts(), no_counts()]).empty


def test_a_file_without_them_is_as_it_was(tmp_path: Path) -> None:
    import zipfile

    plain = normprobe.record(net(), batches()).save(tmp_path / "plain.normprobe")
    with zipfile.ZipFile(plain) as archive:
        assert "bin_counts.parquet" not in archive.namelist()
    loaded = load_tables(plain)
    assert "m3" not in loaded.feature_moments
    assert loaded.bin_counts.empty
