"""The figure of a run over its steps: windows binned exactly, what changed most, and the words for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import normprobe
from normprobe import figures
from normprobe.tables.measures.over_time import binned, changes


@pytest.fixture(scope="module")
def recording() -> normprobe.Recording:
    """30 windows of two steps; at step 40 the data grow eightfold; evaluation on data of another scale."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    with normprobe.Probe(model, window=2, gradients=True) as probe:
        for step in range(60):
            model(torch.randn(16, 6) * (8 if step >= 40 else 1)).square().mean().backward()
            probe.step(step)
            if step % 20 == 19:
                with probe.phase("validation"), torch.no_grad():
                    model(torch.randn(16, 6) * 24)
    return probe.recording


@pytest.mark.parametrize("most", [1, 4, 7, 200])
def test_bins_have_the_variance_of_all_their_values(recording: normprobe.Recording, most: int) -> None:
    over = binned(recording.tables, "train", "input", "variance", most)
    windows = recording.windows.query("phase == 'train'")
    assert len(over.first) == min(most, 30)
    assert (over.first[0], over.last[-1]) == (0, 59)
    for column, (first, last) in enumerate(zip(over.first, over.last, strict=True)):
        inside = windows[(windows["first_step"] >= first) & (windows["last_step"] <= last)]["window"]
        merged = [recording.window(int(number)) for number in inside]
        # The right value by the parts' tables: the mean of squares about the common mean.
        rows = [part.layers.query("layer == '1' and site == 'input'").iloc[0] for part in merged]
        count = np.array([row["n_samples"] * row["n_features"] for row in rows], float)
        mean = np.array([row["mean"] for row in rows])
        whole = (count * mean).sum() / count.sum()
        square = (count * (np.array([row["variance"] for row in rows]) + (mean - whole) ** 2)).sum()
        assert over.values.loc["1"].iloc[column] == pytest.approx(square / count.sum(), rel=1e-9)


def test_one_bin_is_the_phase_as_a_whole(recording: normprobe.Recording) -> None:
    over = binned(recording.tables, "validation", "output", "variance", 1)
    parts = recording.over_time("layers", phase="validation").query("layer == '2' and site == 'output'")
    mean, count = parts["mean"].to_numpy(), parts["n_samples"].to_numpy() * 2.0
    whole = np.average(mean, weights=count)
    expected = np.average(parts["variance"] + (mean - whole) ** 2, weights=count)
    assert over.values.loc["2"].item() == pytest.approx(expected, rel=1e-12)


def test_the_figure_says_what_changed_most_and_when(recording: normprobe.Recording, tmp_path: Path) -> None:
    drawn = figures.render(recording, "over_time")
    layer = recording.over_time("layers", phase="train").query("layer == '0' and site == 'input'")
    facts = drawn.facts
    assert (facts["windows"], facts["columns"]) == (30, 30)
    assert (facts["from_step"], facts["to_step"]) == (40, 41)
    assert changes(recording.tables)[0].layer == facts["layer"]
    first = next(change for change in changes(recording.tables) if change.layer == "0")
    assert first.begin == pytest.approx(layer["variance"].iloc[0])
    assert first.high == pytest.approx(layer["variance"].max())
    assert "by steps 40 to 41" in drawn.caption
    assert "**validation** differs most from train" in drawn.caption
    norm = (
        recording.over_time("layers").query("layer == '1' and site == 'input'").set_index("phase")["variance"]
    )
    assert facts["times"] == pytest.approx(norm["validation"].iloc[-1] / norm["train"].iloc[-1])
    page = recording.report(tmp_path).read_text("utf-8")
    assert 'id="steps"' in page
    assert "What changed over the run" in page
    assert (tmp_path / "figures" / "over_time.png").exists()


def test_terminal_and_notebook_say_it_in_a_line(recording: normprobe.Recording) -> None:
    line = "30 windows of train, steps 0 to 59: the variance"
    assert line in str(recording.summary())
    assert line in recording._repr_html_()


def test_many_windows_become_two_hundred_columns() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)).train()
    with normprobe.Probe(model, window=1, samples=2, values=0) as probe:
        for step in range(230):
            model(torch.randn(4, 2))
            probe.step(step)
    drawn = figures.render(probe.recording, "over_time")
    assert (drawn.facts["windows"], drawn.facts["columns"]) == (230, 200)
    assert "230 windows of train, merged into 200, steps 0 to 229" in drawn.caption


def test_of_one_window_there_is_none() -> None:
    recording = normprobe.record(nn.Linear(2, 2), torch.randn(4, 2))
    assert "over_time" not in figures.available(recording)
    with pytest.raises(ValueError, match="window="):
        figures.over_time(recording)
