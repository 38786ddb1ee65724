"""The columns of moments follow the one list of fields, and files from before a field load without it."""

from __future__ import annotations

from pathlib import Path

import pytest

import normprobe
from normprobe.errors import RecordingError
from normprobe.kernels.moments import MOMENT_FIELDS
from normprobe.tables import storage
from normprobe.tables.columns.tables import BASE, FEATURES, UNITS
from tests.helpers.recordings import recorded


def test_every_field_is_stored_and_shown() -> None:
    columns = [field.column for field in MOMENT_FIELDS.values()]
    assert list(BASE["feature_moments"])[: len(columns)] == columns
    public = [field.public for field in MOMENT_FIELDS.values() if field.public is not None]
    shown = list(FEATURES)[4 : 4 + len(public)]
    assert shown == [column.name for column in public]
    assert [UNITS[column.name] for column in public] == [column.unit for column in public]


def test_the_columns_that_files_of_the_first_version_have_stay() -> None:
    first = ["count", "mean", "m2", "min", "max", "abs_sum", "zeros", "nonfinite"]
    assert [field.column for field in MOMENT_FIELDS.values() if not field.optional] == first
    assert [BASE["feature_moments"][column] for column in first].count("int64") == 3


def test_a_file_from_before_a_field_loads_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: dtype for name, dtype in BASE["feature_moments"].items() if name != "abs_sum"}
    recording = recorded()
    with monkeypatch.context() as patch:
        patch.setitem(BASE, "feature_moments", before)
        path = recording.save(tmp_path / "old.normprobe")
    with pytest.raises(RecordingError, match=r"nothing as feature_moments\.abs_sum"):
        normprobe.load(path)
    monkeypatch.setattr(storage, "OPTIONAL", {"feature_moments": frozenset({"abs_sum"})})
    features = normprobe.load(path).features
    assert features["abs_mean"].isna().all()
    same = features.columns.drop("abs_mean")
    assert features[same].equals(recording.features[same])
