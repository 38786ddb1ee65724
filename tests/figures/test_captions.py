"""What is said of each figure, word by word, and the facts that it rests on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import normprobe
from normprobe import figures
from normprobe.figures import registry
from tests.helpers.edited_tables import edited, with_site
from tests.helpers.figure_recordings import every_figure, images, normal, record, stack
from tests.helpers.golden import golden

GOLDEN = Path(__file__).parent / "golden" / "captions.txt"
X = normal(6, 7, 16)


def loud() -> torch.Tensor:
    """Two samples, the first of their examples, are four hundred times as large; a feature is sixty times."""
    data = X.clone()
    data[[1, 3], 0] *= 400
    data[..., 3] *= 60
    return data


def trained() -> normprobe.Recording:
    """Of batch norms that used the statistics of the batch."""
    model = images().train()
    with normprobe.Probe(model, part="t") as probe:
        model(normal(16, 1, 6, 6))
    return probe.recording


CASES: dict[str, Callable[[], Any]] = {
    "calm": lambda: record(stack(6), X),
    "loud": lambda: record(stack(6), loud()),
    "near the limit of fp16": lambda: record(stack(6, breaks=3e4), X),
    "NaN": lambda: record(stack(6, breaks=float("nan")), X),
    "no finite value": lambda: record(stack(6), X * float("nan")),
    "one sample": lambda: record(stack(6), X[:1, :1]),
    "one feature": lambda: record(stack(6, 1), normal(5, 4, 1)),
    "images": lambda: record(images(), normal(16, 1, 6, 6)),
    "images in train mode": trained,
    "a third site": lambda: edited(record(stack(6), X).tables, with_site("residual")),
}


@cache
def recorded(case: str) -> Any:
    return CASES[case]()


@pytest.mark.parametrize("case", CASES)
def test_captions_are_those_of_the_golden_file(case: str) -> None:
    for drawn in every_figure(recorded(case)):
        golden(GOLDEN, f"{case}: {drawn.name}", f"{drawn.title}\n{drawn.caption}\n{drawn.aria_label}")


def test_facts_are_what_the_figures_rest_on() -> None:
    profile = figures.render(recorded("near the limit of fp16"), "depth_profile").facts
    assert profile["norms"] == 7
    layer, feature, worst, typical = profile["largest"]
    assert (layer, feature) == ("layers.3.norm", 3)
    assert worst == pytest.approx(3e4)
    assert worst > typical > 0
    broken = figures.render(recorded("NaN"), "depth_profile").facts
    assert broken["nonfinite"] == 4  # the three blocks after it and the last norm
    samples = figures.render(recorded("loud"), "samples_through_depth").facts
    assert (samples["kept"], samples["over"], samples["first"]) == (42, 2, 2)
    outliers = figures.render(recorded("loud"), "outlier_map").facts["outliers"]
    assert outliers[0][0] == 3
    running = figures.render(recorded("images"), "running_statistics").facts
    assert (running["layers"], running["trained"], running["examples"]) == (5, 0, 16)
    assert running["values_per_channel"] == (16 * 36, 16 * 36)
    linear = figures.render(recorded("calm"), "linear_by_role").facts
    variances = recorded("calm").layers.query("kind == 'linear' and site == 'output'").set_index("layer")
    assert linear["writes_most"] == (variances["variance"].idxmax(), variances["variance"].max())
    panel = figures.render(recorded("calm"), "norm_panel", layer="norm").facts
    assert (panel["seen"], panel["kept_rows"], panel["kept_samples"]) == (42, 42, 42)


def over_steps() -> normprobe.Recording:
    """A recording of four windows."""
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    with normprobe.Probe(model, window=1) as probe:
        for step in range(4):
            model((1.0 + step) * normal(8, 4))
            probe.step(step)
    return probe.recording


def test_every_figure_of_the_registry_states_facts_of_plain_values() -> None:
    def plain(value: Any) -> bool:
        if isinstance(value, tuple):
            return all(map(plain, value))
        return value is None or isinstance(value, (str, int, float))

    drawn = [one for case in ("loud", "images") for one in every_figure(recorded(case))]
    drawn += every_figure(over_steps())
    assert {one.name for one in drawn} == {entry.name for entry in registry.FIGURES} | {"norm_panel"}
    for one in drawn:
        assert one.facts
        assert all(plain(value) for value in one.facts.values()), one.facts
