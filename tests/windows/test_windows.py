"""Windows of a run: cut anyhow, they merge to what one probe over the whole run measures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import normprobe
from normprobe.tables.frames import Tables
from tests.helpers.oracle import two_pass

MOMENTS = ["mean", "variance", "within_sample_variance", "within_feature_variance", "abs_mean"]
IDENTITY = ["layer", "site", "call", "repeat", "example", "position"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.head = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.embed(x)))
        return out


def data(count: int, seed: int = 0) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(1 + at % 4, 3, 6, generator=rng) + at for at in range(count)]


def run(batches: list[Tensor], *, steps: list[int] | None = None, **options: Any) -> normprobe.Recording:
    """Run a model in training over batches, with a step after each index in ``steps``."""
    model = Net().train()
    with normprobe.Probe(model, **{"part": "run", **options}) as probe, torch.no_grad():
        for at, batch in enumerate(batches):
            model(batch)
            if steps is not None and at in steps:
                probe.step()
    return probe.recording


def same_run(found: Tables, whole: Tables) -> None:
    """Equal: moments to 1e-7 of their scale, which is about 1, those of few rows to 3e-7, all else exactly.

    The kernel adds up to 64 rows of a feature in float32: other rows together round otherwise.
    """
    pd.testing.assert_frame_equal(found.samples[IDENTITY], whole.samples[IDENTITY])
    np.testing.assert_array_equal(found.rows.to_numpy(), whole.rows.to_numpy())
    np.testing.assert_allclose(found.row_values, whole.row_values, rtol=1e-6)
    np.testing.assert_allclose(found.layers[MOMENTS], whole.layers[MOMENTS], rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(
        found.features[["mean", "variance"]], whole.features[["mean", "variance"]], rtol=3e-7, atol=1e-7
    )
    counted = ["layer", "site", "calls", "n_samples", "depth", "min_example", "max_example", "dtype"]
    pd.testing.assert_frame_equal(found.layers[counted], whole.layers[counted])
    pd.testing.assert_frame_equal(found.ledger, whole.ledger)
    # What knows copies of a part is made by `normprobe.merge`, not where a folder's windows are merged.
    differing = {"created", "seconds", "options", "windows", "nbytes", "contents"}
    assert {name: fact for name, fact in found.meta.items() if name not in differing} == {
        name: fact for name, fact in whole.meta.items() if name not in differing
    }


@settings(max_examples=20, deadline=None)
@example(6, {0, 3}, 2, 2, 0)  # 1.5e-7 apart, in two features
@given(
    st.integers(1, 14),
    st.sets(st.integers(0, 13)),
    st.integers(1, 6),
    st.integers(1, 3),
    st.sampled_from([0, 1, 5, 1000, "all"]),
)
def test_any_cut_into_windows_equals_one_probe(
    count: int, steps: set[int], window: int, every: int, samples: Any
) -> None:
    options: dict[str, Any] = {"samples": samples, "values": 4, "every": every}
    whole = run(data(count), steps=sorted(steps), **options)
    cut = run(data(count), steps=sorted(steps), window=window, **options)
    same_run(cut.tables, whole.tables)
    assert cut.windows["forwards"].sum() <= count


@pytest.mark.parametrize("kernel", ["c", "torch"])
def test_windows_hold_the_moments_of_their_own_forwards(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMPROBE_KERNEL", kernel)
    batches = data(10)
    recording = run(batches, steps=list(range(10)), window=4)
    assert recording.windows[["phase", "first_step", "last_step", "forwards"]].to_numpy().tolist() == [
        ["train", 0, 3, 4],
        ["train", 4, 7, 4],
        ["train", 8, 9, 2],
    ]
    for number, (first, last) in enumerate([(0, 4), (4, 8), (8, 10)]):
        rows = torch.cat([batch.reshape(-1, 6) for batch in batches[first:last]]).double().numpy()
        exact = two_pass(rows)
        found = recording.window(number).features.query("layer == 'embed' and site == 'input'")
        np.testing.assert_allclose(found["mean"], exact["mean"], rtol=1e-6)
        np.testing.assert_allclose(found["variance"], exact["variance"], rtol=1e-6)
        assert recording.window(number).meta["measured"] == last - first


def test_over_time_has_a_row_per_window_with_its_steps() -> None:
    recording = run(data(9), steps=list(range(9)), window=3)
    found = recording.over_time("layers", phase="train").query("layer == 'embed' and site == 'input'")
    assert found[["window", "first_step", "last_step"]].to_numpy().tolist() == [
        [0, 0, 2],
        [1, 3, 5],
        [2, 6, 8],
    ]
    # The data drift by 1 a forward.
    assert found["mean"].is_monotonic_increasing
    assert list(recording.over_time("layers"))[:4] == ["window", "phase", "first_step", "last_step"]


def alternating(probe: normprobe.Probe, *, steps: int, evaluations: int = 2, tell: bool = False) -> None:
    """Two epochs of six training steps, each with evaluation behind it."""
    model = probe.model
    for at in range(steps):
        model.train()
        model(torch.randn(2, 3, 6))
        if tell:
            probe.step(at)
        if at % 6 == 5:
            model.eval()
            for _ in range(evaluations):
                model(torch.randn(2, 3, 6))


@pytest.mark.parametrize("tell", [False, True])
def test_every_counts_each_phase_by_itself(tell: bool) -> None:
    """6 of training and 2 of evaluation with every=4: counted together, evaluation was never measured."""
    with normprobe.Probe(Net(), every=4) as probe, torch.no_grad():
        alternating(probe, steps=24, tell=tell)
    calls = probe.recording.over_time("layers").query("layer == 'norm' and site == 'input'")
    # Training 0, 4, 8, ..., 20 and evaluation 0 and 4 of 8.
    assert dict(zip(calls["phase"], calls["calls"], strict=True)) == {"train": 6, "eval": 2}


def test_a_step_is_measured_whole() -> None:
    """With gradients accumulated over four batches, every=2 measured only the first of each two."""
    model = Net().train()
    with normprobe.Probe(model, every=2) as probe, torch.no_grad():
        probe.step(0)  # a step without a forward: from now on steps count
        for at in range(1, 5):
            for _ in range(4):
                model(torch.randn(2, 3, 6))
            probe.step(at)
    assert set(probe.recording.samples["call"]) == {*range(4, 8), *range(12, 16)}


def test_phases_are_kept_apart_and_share_the_running_numbers() -> None:
    torch.manual_seed(1)
    with normprobe.Probe(Net(), window=4, samples="all") as probe, torch.no_grad():
        for at in range(6):
            probe.model.train()
            probe.model(torch.full((2, 3, 6), float(at)))
            probe.step(at)
            with probe.phase("validation"):
                probe.model.eval()(torch.full((1, 3, 6), 100.0 + at))
    recording = probe.recording
    assert recording.windows[["phase", "first_step", "last_step", "forwards"]].to_numpy().tolist() == [
        ["train", 0, 3, 4],
        ["validation", 0, 2, 3],
        ["validation", 3, 5, 3],
        ["train", 4, 5, 2],
    ]
    whole = recording.samples.query("layer == 'embed' and site == 'input'")
    assert sorted(whole["call"].unique()) == list(range(12))
    assert sorted(whole["example"].unique()) == list(range(18))
    means = recording.over_time("layers").query("layer == 'embed' and site == 'input'")["mean"]
    assert means.tolist() == [1.5, 101.0, 104.0, 4.5]
    assert recording.ledger["training"].tolist() == ["train; eval"] * 3


def test_the_last_window_says_which_scale_a_norm_applied() -> None:
    model = Net()
    with normprobe.Probe(model, window=1) as probe, torch.no_grad():
        for at in range(3):
            model.norm.weight.fill_(1.0 + at)
            model(torch.randn(2, 3, 6))
            probe.step(at)
    recording = probe.recording
    written = [
        recording.window(number).features.query("layer == 'norm' and site == 'output'")["weight"].iloc[0]
        for number in range(3)
    ]
    assert written == [1.0, 2.0, 3.0]
    assert recording.features.query("layer == 'norm' and site == 'output'")["weight"].tolist() == [3.0] * 8


def test_a_window_that_was_aside_has_the_scale_of_its_own_last_forward() -> None:
    model = Net()
    with normprobe.Probe(model, window=9) as probe, torch.no_grad():
        for weight, train in ((1.0, True), (2.0, False), (3.0, False)):
            model.norm.weight.fill_(weight)
            model.train(train)(torch.randn(2, 3, 6))
    weights = probe.recording.over_time("features").query("layer == 'norm' and site == 'output'")
    assert weights.groupby("phase")["weight"].agg(["min", "max"]).to_dict("index") == {
        "eval": {"min": 3.0, "max": 3.0},
        "train": {"min": 1.0, "max": 1.0},
    }


def test_windows_merge_publicly_and_none_counts_twice() -> None:
    recording = run(data(9), steps=list(range(9)), window=3, samples=7, values=4)
    first, second, third = (recording.window(number) for number in range(3))
    same_run(normprobe.merge(third, first, second).tables, recording.tables)
    with pytest.raises(normprobe.RecordingError, match="window 1 of 'train' of part 'run' occurs twice"):
        normprobe.merge(first, second, normprobe.merge(second, third))


def test_a_merged_file_names_its_windows_but_does_not_hold_them(tmp_path: Any) -> None:
    saved = normprobe.load(run(data(6), steps=list(range(6)), window=3).save(tmp_path / "run.normprobe"))
    assert saved.windows[["phase", "first_step", "last_step"]].to_numpy().tolist() == [["train", 0, 5]]
    assert len(saved.window(0).layers) == len(saved.layers)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda probe: probe.step(-1), "step must be a whole number of at least 0, or None, got -1"),
        (lambda probe: probe.step(True), "got True"),
        (lambda probe: (probe.step(5), probe.step(4)), "step 4 was told after step 5: steps only go up"),
        (lambda probe: probe.phase("").__enter__(), "phase needs a name such as 'validation', got ''"),
        (lambda probe: probe.recording.over_time("layer"), "takes layers, features, samples, ledger"),
        (lambda probe: probe.recording.over_time("layers", phase="x"), "phase 'x' is not in this recording"),
        (lambda probe: probe.recording.window(0), "window 0 is not in this recording, which has 0"),
        (lambda probe: normprobe.Probe(probe.model, window=0), "window must be a whole number of at least 1"),
    ],
)
def test_what_is_wrong_is_said(call: Any, message: str) -> None:
    with pytest.raises(normprobe.NormprobeError, match=message):
        call(normprobe.Probe(Net()))
