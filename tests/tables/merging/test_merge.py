"""Recordings of parts become the recording of the whole: by Chan's formula, whatever the order."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import normprobe
from normprobe.errors import RecordingError
from normprobe.recording import Recording
from normprobe.tables.frames import Tables, build_tables
from normprobe.tables.merging.merge import merge_tables
from tests.helpers.oracle import two_pass, worst
from tests.helpers.recordings import assert_same, batches, layer, made, meta, net, recorded, site

PARTS = ("a", "b", "c")
NOTES = ("", "a call is left out", "a call is left out (3 times)", "odd; a call is left out")


def part_of(model: nn.Module, part: str, seed: int, **options: Any) -> Recording:
    return normprobe.record(model, batches(seed=seed), part=part, **options)


@st.composite
def tables(draw: st.DrawFn, part: str) -> Tables:
    """Tables of one part: nothing measured, or data of any offset with holes, layers not called, notes."""
    if draw(st.integers(0, 9)) == 0:
        layers = [layer(name, kind, []) for name, kind in (("norm", "layer_norm"), ("head", "linear"))]
        return build_tables(layers, meta(part, 0, measured=0, unit="position"), part)
    count = draw(st.integers(0, 9))
    seed = draw(st.integers(0, 2**20))
    rng = np.random.default_rng(seed)
    offset, scale = draw(st.sampled_from([(0, 1), (1000, 1), (-1e5, 0.5), (0, 1e-8), (3, 0)]))
    data = np.round(rng.normal(size=(count, 3)), draw(st.sampled_from([0, 12]))) * scale + offset
    data[rng.random(data.shape) < draw(st.sampled_from([0, 0, 0.3, 1]))] = np.nan
    found = made(part, data, first=draw(st.sampled_from([0, 4])), absent=draw(st.booleans()))
    ledger = found.ledger_base.assign(
        reason=draw(st.lists(st.sampled_from(NOTES), min_size=2, max_size=2)),
        training=draw(st.sampled_from(["eval", "train", "eval; train"])),
        eps=draw(st.sampled_from([1e-5, 1e-6])),
    )
    features = found.feature_moments.assign(running_mean=draw(st.sampled_from([0.0, 1.0, np.nan])))
    facts = {
        **{"unit": draw(st.sampled_from(["token", "position"])), "measured": 1},
        **{
            "data": draw(st.sampled_from([None, "texts", "images"])),
            "seconds": draw(st.sampled_from([None, 1.5])),
        },
        **{
            "warnings": draw(st.lists(st.sampled_from("xyz"))),
            "own": draw(st.sampled_from([None, 3, 4, "text"])),
        },
        "versions": {"torch": draw(st.sampled_from(["2.1", "2.2"])), "transformers": None},
    }
    return replace(
        found,
        ledger_base=ledger.astype(found.ledger_base.dtypes),
        feature_moments=features,
        facts={**found.facts, **facts},
    )


def moved_close(a: Tables, b: Tables) -> None:
    """Equal but for the last bits of what is summed in another order."""
    scale = 1e5**2 * 30
    for name in ("feature_moments", "sites", "layers", "features"):
        left, right = getattr(a, name), getattr(b, name)
        sums = [
            c for c in ("m2", "variance", "within_sample_variance", "within_feature_variance") if c in left
        ]
        np.testing.assert_allclose(left[sums], right[sums], rtol=1e-12, atol=scale * 1e-15)
        left, right = left.drop(columns=sums), right.drop(columns=sums)
        pd.testing.assert_frame_equal(left, right, check_exact=False, rtol=1e-12, atol=1e-12)
    for name in ("ledger_base", "sample_moments", "rows", "labels", "samples", "ledger"):
        pd.testing.assert_frame_equal(getattr(a, name), getattr(b, name), check_exact=True)
    np.testing.assert_array_equal(a.row_values, b.row_values)
    assert a.meta == b.meta


@settings(max_examples=20)
@given(tables("a"), tables("b"))
def test_merging_is_commutative_to_the_last_bit(a: Tables, b: Tables) -> None:
    assert_same(merge_tables([a, b]), merge_tables([b, a]))


@settings(max_examples=12)
@given(tables("a"), tables("b"), tables("c"))
def test_merging_is_associative(a: Tables, b: Tables, c: Tables) -> None:
    whole = merge_tables([a, b, c])
    moved_close(merge_tables([merge_tables([a, b]), c]), whole)
    moved_close(merge_tables([a, merge_tables([b, c])]), whole)


@settings(max_examples=25)
@given(st.data())
def test_merged_moments_are_chans_to_the_last_bits(data: st.DataObject) -> None:
    parts = [data.draw(tables(part)) for part in PARTS]
    # The head may be absent: its features are missing there, and the norm's are the first six.
    frames = [part.feature_moments[:6] for part in parts if len(part.sites)]
    assume(frames)
    merged = merge_tables(parts).feature_moments[:6]
    count = sum(frame["count"] for frame in frames)
    total = sum(frame["count"] * frame["mean"].astype(np.longdouble) for frame in frames)
    mean = total / np.maximum(count, 1)
    m2 = sum(frame["m2"] + frame["count"] * (frame["mean"] - mean) ** 2 for frame in frames)
    np.testing.assert_array_equal(merged["count"], count)
    np.testing.assert_allclose(merged["mean"], mean.astype(float), rtol=1e-12, atol=1e-20)
    floor = 1e-12 * (np.abs(mean.astype(float)) * 1e-3) ** 2
    np.testing.assert_allclose(merged["m2"], m2.astype(float), rtol=1e-12, atol=float(floor.max()) + 1e-40)
    for name, reduction in (("min", np.minimum), ("max", np.maximum), ("abs_sum", np.add), ("zeros", np.add)):
        expected = reduce(reduction, [frame[name].to_numpy() for frame in frames])
        np.testing.assert_allclose(merged[name], expected, rtol=1e-14)


def test_two_groups_merge_to_the_variance_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    groups = [rng.normal(size=(1000, 1)) for _ in range(2)]
    groups = [(group - group.mean()) / group.std() for group in groups]
    merged = merge_tables([made("a", groups[0]), made("b", groups[1] + 3)])
    row = merged.features.iloc[0]
    assert (row["mean"], row["variance"]) == (pytest.approx(1.5, rel=1e-12), pytest.approx(3.25, rel=1e-12))
    assert merged.layers["variance"][0] == pytest.approx(3.25, rel=1e-12)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_merged_parts_are_the_recording_of_the_whole(count: int) -> None:
    """Exactly at the model's input, where no number depends on the size of the batch."""
    model = net()
    every = [batches(size=2 + at, seed=at) for at in range(count)]
    merged = normprobe.merge(*(normprobe.record(model, part, part=str(at)) for at, part in enumerate(every)))
    whole = normprobe.record(model, [batch for part in every for batch in part], part="whole")
    rows = torch.cat([batch.reshape(-1, 6) for part in every for batch in part]).double().numpy()
    exact = two_pass(rows)
    at = merged.features.query("layer == 'embed' and site == 'input'")
    assert worst(at["mean"], at["variance"], exact["mean"], exact["variance"]) < 1e-6
    for name in ("n_samples", "n_features", "calls", "nonfinite", "masked", "depth"):
        assert list(merged.layers[name]) == list(whole.layers[name])
    numbers = [
        "mean",
        "variance",
        "within_sample_variance",
        "within_feature_variance",
        "abs_mean",
        "min",
        "max",
    ]
    np.testing.assert_allclose(merged.layers[numbers], whole.layers[numbers], rtol=1e-5, atol=1e-6)
    for name in ("forwards", "measured", "examples", "rows", "padding"):
        assert merged.meta[name] == whole.meta[name]


def numbered(offset: int, samples: Any) -> Recording:
    """Every other of four batches, numbered as they are among the four; ``offset`` says which two."""
    data = batches(count=4)
    ahead = [torch.empty(0, 7, 6)] * offset
    with (
        normprobe.Probe(net(), every=2, samples=samples, values=5) as probe,
        torch.no_grad(),
    ):
        for batch in ahead + data:
            probe.model(batch)
    return probe.recording


def test_named_parts_keep_samples_of_all_of_them_and_of_all_their_forwards() -> None:
    model, rng = net(), torch.Generator().manual_seed(0)
    data = [[torch.randn(4, 3, 6, generator=rng) for _ in range(6)] for _ in range(32)]
    merged = normprobe.merge(
        *(normprobe.record(model, part, part=f"rank{at}", samples=32) for at, part in enumerate(data))
    )
    kept = merged.samples.query("layer == 'embed' and site == 'input'")
    assert len(kept) == 32
    # 32 draws of 32 parts, and of 6 forwards: as many of each as chance gives, never one alone.
    assert kept["part"].nunique() > 15
    assert set(kept["call"]) == set(range(6))
    assert len(kept[["example", "position"]].drop_duplicates()) > 20


def test_unnamed_parts_keep_the_same_samples_of_the_same_data() -> None:
    kept = [normprobe.record(net(), batches(), samples=5).samples["example"].tolist() for _ in range(2)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("samples", [0, 1, 3, 20, 1000, "all"])
def test_kept_samples_are_those_of_one_recording_of_the_whole(samples: Any) -> None:
    whole = normprobe.record(net(), batches(count=4), samples=samples, values=5)
    parts = numbered(1, samples), numbered(0, samples)
    merged = normprobe.merge(*parts)
    identity = ["layer", "site", "example", "position", "repeat"]
    pd.testing.assert_frame_equal(merged.samples[identity], whole.samples[identity])
    measures = ["mean", "variance", "min", "max"]
    np.testing.assert_allclose(merged.samples[measures], whole.samples[measures], rtol=1e-4, atol=1e-6)
    if samples not in (0, 1):
        assert set(merged.samples["part"]) == {name for part in parts for name in part.meta["parts"]}
    for name, at in zip(merged.layers["layer"], merged.layers["site"], strict=True):
        if samples == 0:
            with pytest.raises(normprobe.NoSamplesError):
                merged.values(name, at)
        else:
            np.testing.assert_allclose(merged.values(name, at), whole.values(name, at), atol=1e-6)
    extremes = ["min_example", "min_position", "min_feature", "max_example", "max_position", "max_feature"]
    rows = merged.layers["layer"].isin(["embed", "norm", "null"])
    pd.testing.assert_frame_equal(merged.layers[rows][extremes], whole.layers[rows][extremes])


def test_samples_rows_and_labels_of_shards_are_those_of_the_whole() -> None:
    data = np.random.default_rng(0).normal(size=(20, 3))
    parts = [
        made(name, data[first : first + 7], first=first)
        for name, first in zip(PARTS, (0, 7, 14), strict=True)
    ]
    merged, whole = merge_tables(parts), made("whole", data)
    identity = ["place", "example", "hash", "count", "mean", "m2", "min", "max"]
    pd.testing.assert_frame_equal(merged.sample_moments[identity], whole.sample_moments[identity])
    np.testing.assert_array_equal(merged.row_values, whole.row_values)
    pd.testing.assert_frame_equal(
        merged.labels[["example", "text"]].sort_values("example", ignore_index=True),
        whole.labels[["example", "text"]],
    )
    holders = merged.layers[["min_part", "min_example", "max_part", "max_example"]]
    assert all(row["min_part"] == PARTS[row["min_example"] // 7] for row in holders.to_dict("records"))
    assert list(holders["max_example"]) == list(whole.layers["max_example"])


def test_of_equal_hashes_the_lower_part_is_kept() -> None:
    data = np.random.default_rng(0).normal(size=(6, 3))
    merged = merge_tables([made("b", data + 1), made("a", data)])
    found = merged.samples.query("layer == 'norm' and site == 'input'")
    assert list(found["part"]) == ["a", "b"] * 3
    assert len(found) == 6
    assert found["example"].nunique() == 3


def test_extremes_are_held_by_the_part_that_has_them() -> None:
    data = np.zeros((2, 3))
    low, high = data.copy(), data.copy()
    low[1, 2], high[0, 1] = -9, 9
    row = merge_tables([made("a", low), made("b", high)]).layers.iloc[0]
    assert tuple(row[["min", "min_part", "min_example", "min_feature"]]) == (-9, "a", 1, 2)
    assert tuple(row[["max", "max_part", "max_example", "max_feature"]]) == (9, "b", 0, 1)


def test_running_statistics_and_weights_are_missing_where_parts_differ() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.BatchNorm1d(4))
    generator, found = torch.Generator().manual_seed(0), []
    for part in "ab":
        with normprobe.Probe(model, part=part) as probe:
            model(torch.randn(8, 6, generator=generator))
        found.append(probe.recording)
        with torch.no_grad():
            model[1].weight[1] = 2.0
    one, other = (recording.features.set_index(["layer", "site"]) for recording in found)
    with pytest.warns(normprobe.NormprobeWarning, match=r"the weights of 1 layer differ .*\('1'\)"):
        whole = normprobe.merge(*found, on_different_weights="warn")
    merged = whole.features.set_index(["layer", "site"])
    assert merged.loc[("2", "input"), ["running_mean", "running_var"]].isna().all(axis=None)
    assert one.loc[("2", "input"), "running_mean"].ne(other.loc[("2", "input"), "running_mean"]).all()
    assert list(merged.loc[("1", "output"), "weight"].isna()) == [False, True, False, False]
    assert merged.loc[("1", "output"), "bias"].eq(0).all()
    assert merged.loc[("2", "output"), "weight"].eq(1).all()


def test_what_a_batch_norm_saw_is_merged_too() -> None:
    parts = [part_of(net(), part, seed) for seed, part in enumerate("ab")]
    merged = normprobe.merge(*parts).features.query("layer == 'batch_norm' and site == 'input'")
    np.testing.assert_allclose(
        merged[["seen_mean", "seen_variance"]], merged[["mean", "variance"]], rtol=1e-12
    )


def test_a_layer_that_fired_in_one_part_only() -> None:
    data = np.random.default_rng(0).normal(size=(5, 3))
    merged = merge_tables([made("a", data, absent=True), made("b", data)])
    ledger = merged.ledger.set_index("layer")
    assert list(ledger["status"]) == ["fired", "fired"]
    assert list(ledger["calls"]) == [2, 1]
    head = merged.layers.set_index(["layer", "site"]).loc[("head", "input")]
    alone = made("b", data).layers.set_index(["layer", "site"]).loc[("head", "input")]
    assert head["n_samples"] == 5
    assert head["variance"] == alone["variance"]
    assert head["min_part"] == "b"
    np.testing.assert_array_equal(merged.values("head", "output"), made("b", data).values("head", "output"))
    assert (
        merge_tables([made("a", data, absent=True), made("c", data, absent=True)]).ledger["status"][1]
        == "never fired"
    )


def test_an_empty_part_changes_no_number() -> None:
    full = recorded()
    empty = normprobe.Probe(net(), part="empty").recording
    merged = normprobe.merge(full, empty)
    pd.testing.assert_frame_equal(merged.layers, full.layers)
    pd.testing.assert_frame_equal(merged.features, full.features)
    pd.testing.assert_frame_equal(merged.samples, full.samples)
    pd.testing.assert_frame_equal(merged.ledger, full.ledger)
    assert merged.meta["unit"] == full.meta["unit"]


def test_merging_one_recording_gives_it_back() -> None:
    assert_same(normprobe.merge(recorded()).tables, recorded().tables)


def test_reasons_of_fired_layers_count_their_calls_together() -> None:
    data = np.ones((2, 3))
    parts = [
        build_tables([layer("x", "linear", [site("input", data)], reason=reason)], meta(part, 2), part)
        for part, reason in zip(PARTS, ["left out", "left out (3 times); odd", ""], strict=True)
    ]
    assert merge_tables(parts).ledger["reason"][0] == "left out (4 times); odd"
    unseen = [build_tables([layer("x", "linear", [], reason="never called")], meta(p, 2), p) for p in PARTS]
    assert merge_tables(unseen).ledger["reason"][0] == "never called"


def test_facts_of_the_whole() -> None:
    first = recorded().annotate(data="texts", seconds=1.0, warnings=["w"], unit="token")
    second = recorded(part="b", seed=1).annotate(data="images", created="2999-01-01T00:00:00+00:00")
    facts = normprobe.merge(second, first).meta
    assert facts["data"] == "images; texts"
    assert (facts["parts"], facts["warnings"], facts["seconds"]) == (["a", "b"], ["w"], 1.0)
    assert (facts["unit"], facts["created"]) == ("position", "2999-01-01T00:00:00+00:00")
    assert facts["digests"] == first.meta["digests"] | second.meta["digests"]
    assert (facts["examples"], facts["options"]) == (12, first.meta["options"])


def test_a_merged_recording_is_saved_loaded_and_merged_again(tmp_path: Path) -> None:
    a, b, c = (recorded(part=part, seed=seed) for seed, part in enumerate(PARTS))
    merged = normprobe.load(normprobe.merge(a, b).save(tmp_path / "ab"))
    assert_same(normprobe.merge(merged, c).tables, normprobe.merge(a, b, c).tables, relative=1e-12)
    with pytest.raises(RecordingError, match="part 'b' occurs twice"):
        normprobe.merge(merged, b)


def refused(message: str, *recordings: Any) -> None:
    for order in (recordings, recordings[::-1]):
        with pytest.raises(RecordingError, match=message):
            normprobe.merge(*order)


def test_the_same_part_twice_is_an_error() -> None:
    refused(
        r"part 'a' occurs twice, so its data would count twice; merge each part once", recorded(), recorded()
    )


class Other(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.embed(x)


def test_recordings_of_different_models_are_an_error() -> None:
    other = part_of(Other(), "b", 1)
    refused(r"different models cannot be merged: 'Net', 'Other'; record them alike", recorded(), other)


@pytest.mark.parametrize("option", [{"samples": 5}, {"values": 3}, {"seed": 1}, {"mask": None}, {"every": 2}])
def test_recordings_of_different_options_are_an_error(option: dict[str, Any]) -> None:
    (name,) = option
    other = normprobe.record(net(), batches(), part="b", **option)
    refused(rf"different option '{name}' cannot be merged: .*; record them alike", recorded(), other)


def test_recordings_of_different_layers_are_an_error() -> None:
    fewer = recorded(part="b", layers="*n*")
    refused("different layers cannot be merged: not all have 'embed' .Linear.", recorded(), fewer)
    model = net()
    model.null = nn.LayerNorm(5)
    model.batch_norm = nn.BatchNorm1d(5)
    refused("different layers cannot be merged: not all have 'null'", recorded(), part_of(model, "b", 1))
    assert len(normprobe.merge(fewer, recorded(part="c", seed=1, kinds=None, layers="*n*")).ledger) == len(
        fewer.ledger
    )


def test_recordings_of_different_widths_are_an_error() -> None:
    model = net()
    model.null, model.batch_norm = nn.Linear(5, 3), nn.BatchNorm1d(3)
    refused(
        "'null' has different numbers of features at its output; these are different models",
        recorded(),
        part_of(model, "b", 1),
    )


def test_a_norm_that_behaves_differently_is_an_error() -> None:
    data = np.ones((2, 3))
    parts = [
        Recording(build_tables([layer("x", kind, [site("input", data)], type="Norm")], meta(part, 2), part))
        for part, kind in (("a", "layer_norm"), ("b", "rms_norm"))
    ]
    refused("'x' behaves as layer_norm and as rms_norm; these are different models", *parts)


def test_merging_nothing_or_something_else_is_an_error_in_words() -> None:
    refused("merge needs at least one recording")
    refused(
        r"merge takes recordings, got list; load files first, and unpack a list: merge\(\*recordings\)",
        [recorded()],
    )
    refused(r"merge takes recordings, got str", "a.normprobe")
