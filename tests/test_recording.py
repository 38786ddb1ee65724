"""A recording at a prompt: a layer by its name, its figures, its public names, the path of its page."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.figures.registry import FIGURES
from normprobe.recording import Recording
from normprobe.report.page_path import PagePath
from tests.helpers.report_models import record, stack


class Net(nn.Module):
    """A Linear, a norm, and a Linear that nothing calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn1, self.spare = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.first(x))


@pytest.fixture(scope="module")
def recording() -> Recording:
    torch.manual_seed(0)
    return normprobe.record(Net(), [torch.randn(32, 6)])


def test_a_layer_has_its_rows_of_every_table(recording: Recording) -> None:
    norm = recording["bn1"]
    expected = recording.layers.query("layer == 'bn1'").set_index("site")
    assert norm.sites.index.tolist() == ["input", "output"]
    assert norm.sites["variance"].tolist() == expected["variance"].tolist()
    assert norm.features["running_var"].count() == 8
    assert len(norm.features) == 16
    assert set(norm.samples["site"]) == {"input", "output"}
    assert norm.ledger["kind"] == "batch_norm"
    assert (norm.values("input") == recording.values("bn1", "input")).all()


def test_a_layer_shows_what_is_before_and_after(recording: Recording) -> None:
    lines = repr(recording["bn1"]).splitlines()
    assert lines[0] == "bn1: batch_norm (BatchNorm1d), 8 features, 1 calls"
    assert [line.split()[0] for line in lines[-2:]] == ["input", "output"]
    assert "within_feature_variance" in recording["bn1"]._repr_html_()


def test_a_layer_that_did_not_fire_says_why(recording: Recording) -> None:
    assert (
        repr(recording["spare"])
        == "spare: linear (Linear), never fired: " + recording["spare"].ledger["reason"]
    )
    assert recording["spare"].sites.empty
    assert "<table" not in recording["spare"]._repr_html_()


def test_an_unknown_layer_gets_close_names(recording: Recording) -> None:
    with pytest.raises(normprobe.NoLayersError, match=r"no layer 'bn2' among its 3; close names: 'bn1'"):
        recording["bn2"]
    with pytest.raises(
        normprobe.NoLayersError, match=r"among its 3; the first 3 of them are: 'first', 'bn1', 'spare'"
    ):
        recording["zzz"]
    with pytest.raises(normprobe.NoLayersError, match="no layer 7 among"):
        recording[7]  # type: ignore[index]


def test_a_recording_counts_and_lists_its_layers(recording: Recording) -> None:
    assert list(recording) == ["first", "bn1", "spare"]
    assert len(recording) == 3
    assert "bn1" in recording
    assert "bn2" not in recording
    assert 7 not in recording


def test_figures_are_methods_of_a_recording() -> None:
    shown = Recording(record(stack(5))).figures
    assert len(shown.depth_profile().axes) >= 3
    assert shown.outlier_map().axes
    assert shown.norm_panel("layers.1.norm").axes
    assert set(dir(shown)) == {entry.name for entry in FIGURES} | {"norm_panel"}


def test_what_a_recording_lacks_is_said(recording: Recording) -> None:
    with pytest.raises(ValueError, match="role"):
        recording.figures.linear_by_role()
    assert len(recording.figures.running_statistics().axes) == 2


@pytest.mark.parametrize("module", ["figures", "findings", "batchnorm"])
def test_modules_show_their_public_names_alone(module: str) -> None:
    package = getattr(normprobe, module)
    assert dir(package) == sorted(package.__all__)


def test_a_page_is_a_path_and_a_link() -> None:
    page = PagePath("a b/<x>.html")
    assert page == Path("a b/<x>.html")
    assert pickle.loads(pickle.dumps(page)) == page
    assert page._repr_html_() == '<a href="a%20b/%3Cx%3E.html" target="_blank">a b/&lt;x&gt;.html</a>'
    assert 'href="file:///' in PagePath("/tmp/report.html")._repr_html_()
