"""The public tables: their columns, their numbers, and that nobody can change them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import normprobe
from normprobe.errors import NoSamplesError, RecordingError
from normprobe.tables.frames import build_tables
from tests.helpers.oracle import tensors, two_pass
from tests.helpers.recordings import FRAMES, batches, layer, made, meta, net, recorded, site

TEXT, WHOLE, REAL, NUMBER, TRUTH = "string", "int64", "float64", "Int64", "boolean"

# As the design has them, written out: the schema is what is tested.
COLUMNS = {
    "layers": [
        *((name, TEXT) for name in ("layer", "kind", "type", "site", "dtype", "sample_unit")),
        *((name, WHOLE) for name in ("calls", "n_samples", "n_features")),
        *((name, REAL) for name in ("mean", "variance", "within_sample_variance", "within_feature_variance")),
        *((name, REAL) for name in ("abs_mean", "abs_median", "min", "max")),
        *[("min_part", TEXT), ("min_example", NUMBER), ("min_position", NUMBER), ("min_feature", NUMBER)],
        *[("max_part", TEXT), ("max_example", NUMBER), ("max_position", NUMBER), ("max_feature", NUMBER)],
        *[("zero_fraction", REAL), ("nonfinite", WHOLE), ("masked", WHOLE), ("nonfinite_masked", WHOLE)],
        *[("depth", WHOLE), ("abs_max", REAL), ("feature_ratio", REAL), ("nonfinite_part", TEXT)],
        *[(f"nonfinite_{name}", NUMBER) for name in ("step", "call", "example", "position", "feature")],
    ],
    "features": [
        *((name, TEXT) for name in ("layer", "kind", "site")),
        *((name, WHOLE) for name in ("feature", "count")),
        *((name, REAL) for name in ("mean", "variance", "min", "max", "abs_mean", "zero_fraction")),
        ("nonfinite", WHOLE),
        *((name, REAL) for name in ("weight", "bias", "running_mean", "running_var")),
        *((name, REAL) for name in ("seen_mean", "seen_variance", "abs_max")),
    ],
    "samples": [
        *((name, TEXT) for name in ("layer", "kind", "site", "part")),
        *((name, WHOLE) for name in ("call", "repeat")),
        *((name, NUMBER) for name in ("example", "position")),
        *((name, REAL) for name in ("mean", "variance", "min", "max")),
        ("count", WHOLE),
    ],
    "ledger": [
        *((name, TEXT) for name in ("layer", "aliases", "kind", "type")),
        *[("n_features", NUMBER), ("eps", REAL), ("affine", TRUTH), ("training", TEXT), ("grad", TEXT)],
        *[("calls", WHOLE), ("status", TEXT), ("via", TEXT), ("masked_by", TEXT), ("sample_unit", TEXT)],
        *[("aligned", TRUTH), ("reason", TEXT), ("normalizes", TEXT), ("groups", NUMBER)],
        *[("activation", TEXT), ("momentum", REAL), ("running_dtype", TEXT), ("statistics", TEXT)],
        ("num_batches_tracked", NUMBER),
        ("gradients", NUMBER),
        ("rows", NUMBER),
        ("expert_of", TEXT),
        ("expert", NUMBER),
        ("router_of", TEXT),
    ],
    "labels": [("part", TEXT), ("example", NUMBER), ("position", NUMBER), ("text", TEXT)],
}


def one_word(args: Any, kwargs: Any) -> list[list[str]]:
    return [["word"] * 7] * 3


def columns(frame: pd.DataFrame) -> list[tuple[str, str]]:
    return [(name, str(dtype)) for name, dtype in frame.dtypes.items()]


@pytest.mark.parametrize("name", FRAMES)
def test_columns_order_and_dtypes_are_the_designs(name: str) -> None:
    frame = getattr(recorded(), name)
    assert columns(frame) == COLUMNS[name]
    assert frame.index.equals(pd.RangeIndex(len(frame)))


@pytest.mark.parametrize("name", FRAMES)
def test_a_recording_of_nothing_has_the_same_columns_and_no_rows(name: str) -> None:
    recording = normprobe.Probe(net()).recording
    frame = getattr(recording, name)
    assert columns(frame) == COLUMNS[name]
    assert len(frame) == (5 if name == "ledger" else 0)


def test_layers_come_in_order_of_execution_and_input_before_output() -> None:
    layers = recorded().layers
    assert list(layers["layer"]) == [n for n in ("embed", "norm", "null", "batch_norm") for _ in range(2)]
    assert list(layers["site"]) == ["input", "output"] * 4
    assert list(layers["depth"]) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_layer_rows_are_the_oracles() -> None:
    model = net()
    data = batches(dtype=torch.float64)
    model.double()
    recording = normprobe.record(model, data, samples="all", values=10_000)
    seen = tensors(model, ["norm"], lambda: [model(batch) for batch in data])
    for at in ("input", "output"):
        rows = torch.cat([t.reshape(-1, 5) for t in seen["norm", at]]).numpy()
        row = recording.layers.query("layer == 'norm' and site == @at").iloc[0]
        assert row["mean"] == pytest.approx(rows.mean(), rel=1e-9, abs=1e-9)
        assert row["variance"] == pytest.approx(rows.var(), rel=1e-9)
        assert row["within_sample_variance"] == pytest.approx(rows.var(1).mean(), rel=1e-9)
        assert row["within_feature_variance"] == pytest.approx(rows.var(0).mean(), rel=1e-9)
        assert row["abs_mean"] == pytest.approx(abs(rows).mean(), rel=1e-9)
        assert row["abs_median"] == pytest.approx(np.median(abs(rows)), rel=1e-12)
        assert (row["min"], row["max"]) == (rows.min(), rows.max())
        assert row["min_feature"] == rows.argmin() % 5
        assert (row["n_samples"], row["n_features"], row["calls"]) == (42, 5, 2)


def test_variance_splits_by_samples_and_by_features() -> None:
    recording = recorded(samples="all")
    means = {
        "within_sample_variance": recording.samples.groupby(["layer", "site"])["mean"].var(ddof=0),
        "within_feature_variance": recording.features.groupby(["layer", "site"])["mean"].var(ddof=0),
    }
    for name, between in means.items():
        for row in recording.layers.to_dict("records"):
            whole = row[name] + between[row["layer"], row["site"]]
            assert whole == pytest.approx(row["variance"], rel=1e-6), (row["layer"], row["site"], name)


def test_sites_of_many_widths_each_get_their_own_numbers() -> None:
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(9, width)) * width for width in (3, 1, 3, 7, 1, 2)]
    layers = [layer(f"l{at}", "linear", [site("input", rows)], depth=at) for at, rows in enumerate(data)]
    tables = build_tables(layers, meta("a", 9), "a")
    for row, rows in zip(tables.layers.to_dict("records"), data, strict=True):
        assert row["mean"] == pytest.approx(rows.mean(), rel=1e-12)
        assert row["variance"] == pytest.approx(rows.var(), rel=1e-12)
        assert row["within_feature_variance"] == pytest.approx(rows.var(0).mean(), rel=1e-12)
    expected = np.concatenate([two_pass(rows)["variance"] for rows in data])
    np.testing.assert_allclose(tables.features["variance"], expected, rtol=1e-12)
    assert list(tables.features["feature"]) == [feature for rows in data for feature in range(rows.shape[1])]


def test_what_has_no_finite_value_is_missing_and_counted() -> None:
    data = np.array([[1.0, np.nan], [3.0, np.inf], [np.nan, np.nan]])
    tables = build_tables([layer("x", "linear", [site("input", data)])], meta("a", 3), "a")
    features, samples, row = tables.features, tables.samples.sort_values("example"), tables.layers.iloc[0]
    assert list(features["count"]) == [2, 0]
    assert list(features["nonfinite"]) == [1, 3]
    measures = ["mean", "variance", "min", "max", "abs_mean", "zero_fraction"]
    assert features.loc[1, measures].isna().all()
    assert features.loc[0, measures].notna().all()
    assert samples.iloc[2][["mean", "variance", "min", "max"]].isna().all()
    assert list(samples["mean"][:2]) == [1.0, 3.0] or sorted(samples["mean"].dropna()) == [1.0, 3.0]
    assert (row["mean"], row["variance"], row["abs_median"], row["nonfinite"]) == (2.0, 1.0, 2.0, 4)
    assert (row["within_feature_variance"], row["within_sample_variance"]) == (1.0, 0.0)


def test_a_site_without_a_number_is_a_row_of_missing_values() -> None:
    for data in (np.full((2, 3), np.nan), np.empty((0, 3)), np.empty((2, 0))):
        tables = build_tables([layer("x", "linear", [site("input", data)])], meta("a", 2), "a")
        row = tables.layers.iloc[0]
        assert row[["mean", "variance", "abs_mean", "abs_median", "min", "max", "zero_fraction"]].isna().all()
        assert row[["min_part", "min_example", "max_feature"]].isna().all()
        assert row["n_features"] == data.shape[1] == len(tables.features)


@pytest.mark.parametrize("loaded", [False, True], ids=["measured", "loaded"])
@pytest.mark.parametrize("name", FRAMES)
def test_a_callers_change_does_not_reach_the_recording(name: str, loaded: bool, tmp_path: Path) -> None:
    recording = recorded(labels=one_word)
    if loaded:
        recording = normprobe.load(recording.save(tmp_path / "x", labels=True))
    before = getattr(recording, name).copy(deep=True)
    assert len(before)
    mine = getattr(recording, name)
    mine.iloc[0, 0] = "changed"
    mine[mine.columns[-1]] = mine[mine.columns[-1]].iloc[::-1].to_numpy()
    del mine[mine.columns[1]]
    mine["extra"] = 1
    pd.testing.assert_frame_equal(getattr(recording, name), before)


def test_arrays_of_a_table_are_no_way_in() -> None:
    recording = recorded()
    before = recording.features.copy(deep=True)
    array = recording.features["mean"].to_numpy()
    if array.flags.writeable:
        array[:] = 0
    values = recording.values("norm", "input")
    values[:] = 0
    pd.testing.assert_frame_equal(recording.features, before)
    assert abs(recording.values("norm", "input")).min() > 0


def test_meta_is_a_copy_to_its_depths() -> None:
    recording = recorded()
    facts = recording.meta
    facts["options"]["samples"] = 0
    facts["parts"].append("b")
    assert recording.meta["options"]["samples"] == 1024
    assert recording.meta["parts"] == ["a"]


def test_a_snapshot_does_not_move_while_the_probe_goes_on() -> None:
    model = net()
    with normprobe.Probe(model) as probe:
        model(batches()[0])
        early = probe.recording
        frames = {name: getattr(early, name).copy(deep=True) for name in FRAMES}
        rows = early.values("norm", "output")
        model(batches(seed=5)[0])
        late = probe.recording
    for name, frame in frames.items():
        pd.testing.assert_frame_equal(getattr(early, name), frame)
    np.testing.assert_array_equal(early.values("norm", "output"), rows)
    assert late.layers["n_samples"].sum() == 2 * early.layers["n_samples"].sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_are_the_raw_rows_in_order_of_hash(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.LayerNorm(6)).to(dtype)
    data = [batch.to(dtype) for batch in batches()]
    recording = normprobe.record(model, data, values=9)
    rows = torch.cat(data).reshape(-1, 6).double().numpy()
    samples = recording.samples.query("site == 'input'")[:9]
    expected = rows[(samples["example"] * 7 + samples["position"]).to_numpy(int)]
    found = recording.values("0", "input")
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(
        samples["mean"].to_numpy(), found.mean(1), rtol=1e-5 if dtype != torch.float64 else 1e-12, atol=1e-7
    )


def test_values_are_of_the_same_samples_at_both_sites() -> None:
    recording = recorded(values=10)
    before, after = recording.values("norm", "input"), recording.values("norm", "output")
    centred = before - before.mean(1, keepdims=True)
    expected = centred / np.sqrt(before.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(after, expected, atol=1e-5)
    assert recording.values("embed", "input").shape == (8, 6)


@pytest.mark.parametrize(
    ("layer_name", "site_name", "message"),
    [
        ("norm", "inputs", "site 'inputs' is unknown; ask for 'input' or 'output'"),
        ("encoder", "input", "layer 'encoder' is not in this recording; its ledger names 5 layers"),
        ("unused", "input", "layer 'unused' has no values: never fired; see the ledger's reason"),
    ],
)
def test_values_that_are_not_there_are_an_error_in_words(
    layer_name: str, site_name: str, message: str
) -> None:
    with pytest.raises(NoSamplesError) as caught:
        recorded().values(layer_name, site_name)
    assert str(caught.value) == message


def test_values_zero_keeps_no_row_and_says_so() -> None:
    recording = recorded(values=0)
    with pytest.raises(NoSamplesError, match="no raw rows of 'norm' input are kept; probe with values > 0"):
        recording.values("norm", "input")
    assert recording.layers["abs_median"].isna().all()


def test_a_model_that_is_itself_a_layer_has_an_empty_name() -> None:
    recording = normprobe.record(nn.LayerNorm(6), batches())
    assert set(recording.layers["layer"]) == set(recording.ledger["layer"]) == {""}
    assert recording.values("", "input").shape == (42, 6)


def test_labels_name_kept_samples_and_holders_of_extremes() -> None:
    words = [[f"{example}.{position}" for position in range(7)] for example in range(3)]
    recording = recorded(labels=lambda args, kwargs: words, samples=2)
    texts = {(row["example"], row["position"]): row["text"] for row in recording.labels.to_dict("records")}
    kept = recording.samples.query("layer == 'norm'")
    layers = recording.layers.query("layer in ['embed', 'norm', 'null']")
    wanted = set(zip(kept["example"], kept["position"], strict=True))
    for end in ("min", "max"):
        wanted |= set(zip(layers[f"{end}_example"], layers[f"{end}_position"], strict=True))
    assert wanted <= set(texts)
    assert all(text == f"{example % 3}.{position}" for (example, position), text in texts.items())
    assert set(recording.labels["part"]) == {"a"}
    assert recorded().labels.empty


def test_vectors_and_running_statistics_stand_where_they_belong() -> None:
    features = recorded().features
    at = features.set_index(["layer", "site"]).sort_index()
    assert (at.loc[("norm", "output"), ["weight", "bias"]].to_numpy() == [1, 0]).all()
    assert (at.loc[("batch_norm", "input"), ["running_mean", "running_var"]].to_numpy() == [0, 1]).all()
    seen = at.loc[("batch_norm", "input")]
    np.testing.assert_array_equal(seen[["seen_mean", "seen_variance"]], seen[["mean", "variance"]])
    known = features[["weight", "bias"]].notna().any(axis=1)
    assert set(zip(features["layer"][known], features["site"][known], strict=True)) == {
        ("norm", "output"),
        ("batch_norm", "output"),
    }
    known = features[["running_mean", "seen_mean", "seen_variance"]].notna().any(axis=1)
    assert set(features["layer"][known] + features["site"][known]) == {"batch_norminput"}


def test_annotate_adds_facts_and_leaves_the_recording() -> None:
    recording = recorded()
    told = recording.annotate(data="6 examples", seconds=1.5)
    assert (told.meta["data"], told.meta["seconds"]) == ("6 examples", 1.5)
    assert recording.meta["data"] is None
    pd.testing.assert_frame_equal(told.layers, recording.layers)


@pytest.mark.parametrize("fact", [{"seconds": float("nan")}, {"data": {1, 2}}, {"data": np.float32(1)}])
def test_annotate_refuses_what_json_cannot_hold(fact: dict[str, object]) -> None:
    with pytest.raises(RecordingError, match="annotate takes what JSON holds, got "):
        recorded().annotate(**fact)


@pytest.mark.parametrize("name", ["parts", "digests", "options"])
def test_annotate_refuses_what_merging_rests_on(name: str) -> None:
    with pytest.raises(RecordingError, match=f"'{name}' cannot be annotated: merging rests on it"):
        recorded().annotate(**{name: []})


def test_made_tables_are_like_recorded_ones() -> None:
    tables = made("a", np.random.default_rng(0).normal(size=(8, 3)))
    for name in FRAMES:
        assert columns(getattr(tables, name)) == COLUMNS[name]
    assert tables.meta.keys() >= {*recorded().meta} - {"pad_tokens", "weight_changes", "windows"}
