"""What is said of activations is the same whether gradients were measured beside them or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import normprobe
from normprobe import figures
from normprobe.vocabulary import GRADIENT_SITES


def model() -> nn.Module:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU()) for _ in range(4)]
    return nn.Sequential(nn.Linear(8, 16), *blocks, nn.LayerNorm(16), nn.Linear(16, 3))


def recorded(*, gradients: bool) -> normprobe.Recording:
    net, generator = model(), torch.Generator().manual_seed(1)
    # Large enough for findings: an outlier feature in front, and gradients that explode.
    net[0].weight.data[3] *= 300
    with normprobe.Probe(net, gradients=gradients, part="one") as probe:
        for _ in range(3):
            (net(torch.randn(8, 9, 8, generator=generator)).square().sum() * 1e6).backward()
    return probe.recording.annotate(created="2026-01-01T00:00:00+00:00")


@pytest.fixture(scope="module")
def both() -> tuple[normprobe.Recording, normprobe.Recording]:
    return recorded(gradients=True), recorded(gradients=False)


def test_tables_of_activations_are_those_of_a_probe_without_gradients(
    both: tuple[normprobe.Recording, normprobe.Recording],
) -> None:
    with_gradients, without = both
    assert set(GRADIENT_SITES) < set(with_gradients.layers["site"])
    ours, theirs = with_gradients.tables.activations, without.tables
    for name in ("layers", "features", "samples"):
        pd.testing.assert_frame_equal(getattr(ours, name), getattr(theirs, name))
    pd.testing.assert_frame_equal(ours.rows, theirs.rows)
    np.testing.assert_array_equal(ours.row_values, theirs.row_values)
    for layer in ("1.0", "5"):
        np.testing.assert_array_equal(ours.values(layer, "input"), theirs.values(layer, "input"))
    assert without.tables.activations is without.tables


def test_findings_summary_and_outliers_are_the_same(
    both: tuple[normprobe.Recording, normprobe.Recording],
) -> None:
    with_gradients, without = both
    assert len(without.findings())
    pd.testing.assert_frame_equal(with_gradients.findings(), without.findings())
    pd.testing.assert_frame_equal(with_gradients.outliers(), without.outliers())
    assert str(with_gradients.summary()) == str(without.summary())
    assert repr(with_gradients) == repr(without)
    assert with_gradients._repr_html_() == without._repr_html_()


def test_figures_and_report_are_the_same(
    both: tuple[normprobe.Recording, normprobe.Recording], tmp_path: Path
) -> None:
    assert figures.available(both[0]) == figures.available(both[1])
    pages = []
    for number, recording in enumerate(both):
        page = recording.report(tmp_path / str(number)).read_text()
        pages.append(page.replace("parameters.csv", ""))
    drawn = [{path.name: path.read_bytes() for path in (tmp_path / n).rglob("*.svg")} for n in "01"]
    assert drawn[0] == drawn[1] != {}
    for site in GRADIENT_SITES:
        assert site not in pages[1]


def test_comparisons_are_of_activations(both: tuple[normprobe.Recording, normprobe.Recording]) -> None:
    comparison = normprobe.compare(*both)
    assert not set(GRADIENT_SITES) & set(comparison.layers["site"])
    assert (comparison.layers["error_db"].dropna() == -np.inf).all()


def test_files_and_exports_hold_gradients(
    both: tuple[normprobe.Recording, normprobe.Recording], tmp_path: Path
) -> None:
    recording = both[0]
    recording.save(tmp_path / "run.normprobe")
    loaded = normprobe.load(tmp_path / "run.normprobe")
    for name in ("layers", "features", "samples", "ledger", "parameters"):
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(recording, name))
    site = GRADIENT_SITES[0]
    np.testing.assert_array_equal(loaded.values("5", site), recording.values("5", site))
    recording.to_csv(tmp_path)
    assert site in set(pd.read_csv(tmp_path / "layers.csv")["site"])


def test_parts_with_and_without_gradients_merge() -> None:
    net = model()
    recordings = []
    for part, gradients in (("a", True), ("b", False), ("c", True)):
        with normprobe.Probe(net, gradients=gradients, part=part, samples="all") as probe:
            net(torch.randn(4, 5, 8)).sum().backward()
        recordings.append(probe.recording)
    merged = normprobe.merge(*recordings)
    calls = merged.layers.query("layer == '5'").set_index("site")["calls"]
    assert calls.to_dict() == {"input": 3, "output": 3, "input_gradient": 2, "output_gradient": 2}
    assert merged.ledger.set_index("layer").loc["5", "gradients"] == 2
    assert len(merged.samples.query("layer == '5' and site == 'input_gradient'")) == 40
