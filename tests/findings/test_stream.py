"""The checks of variance over depth, on the residual stream where it was measured."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.figures.data.depth_profile import summarize
from normprobe.findings.evidence_series import series
from tests.helpers.tiny_models import batch, tiny


class Block(nn.Module):
    """A post-norm branch: no norm reads the stream, as in OLMo2."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.linear, self.norm, self.factor = nn.Linear(32, 32), nn.LayerNorm(32), factor

    def forward(self, x: Tensor) -> Tensor:
        """Add a normalized branch, scaled by the size of the stream."""
        return x + self.factor * x.std() * self.norm(self.linear(x))


def stack(factor: float, count: int = 8) -> nn.Module:
    """Blocks of which each multiplies the variance by about 1 + factor**2."""
    torch.manual_seed(0)
    return nn.Sequential(*[Block(factor) for _ in range(count)])


def test_a_stream_that_no_norm_reads_explodes_only_where_it_is_measured() -> None:
    model, x = stack(4.0), torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    blind = normprobe.record(model, [x]).findings(["variance_explodes"])
    recording = normprobe.record(model, [x], residual=True)
    found = recording.findings(["variance_explodes"])
    assert len(found) == 1
    assert found["layer"][0] in [f"{i}" for i in range(8)]
    assert found["site"][0] == "output"
    assert found["layers_affected"][0] == 8
    assert "times per block" in found["message"][0]
    # The series is the variance of the blocks' outputs.
    drawn = series(recording.tables.activations, found["evidence"][0])
    assert drawn["layer"].tolist() == [str(i) for i in range(8)]
    samples = recording.samples.query("site == 'output' and kind == 'residual'")
    median = (samples["variance"] + samples["mean"] ** 2).groupby(samples["layer"]).median()
    assert drawn["value"].tolist() == pytest.approx(median.tolist())
    assert not blind["message"].str.contains("per block").any()


@pytest.mark.parametrize("factor", [0.3, 1.0])
def test_a_stream_that_grows_as_pre_norm_models_do_is_healthy(factor: float) -> None:
    model, x = stack(factor), torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    recording = normprobe.record(model, [x], residual=True)
    assert recording.findings(["variance_explodes", "variance_vanishes"]).empty


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "vit"])
def test_healthy_models_have_no_finding_with_the_stream_that_they_lack_without(name: str) -> None:
    model, given = tiny(name), batch(name)
    one, other = (normprobe.record(model, [given], residual=residual) for residual in (False, True))
    checks = ["variance_explodes", "variance_vanishes"]
    assert other.findings(checks)["check"].tolist() == one.findings(checks)["check"].tolist()


@pytest.mark.parametrize("name", ["llama", "olmo2", "t5"])
def test_the_depth_profile_draws_the_stream(name: str) -> None:
    recording = normprobe.record(tiny(name), [batch(name)], residual=True)
    stream = summarize(recording.tables.activations).stream
    samples = recording.samples.query("kind == 'residual'").groupby(["layer", "site"])["variance"].median()
    assert stream["x"].is_monotonic_increasing
    assert stream["value"].tolist() == pytest.approx(
        [samples[layer, site] for layer, site in zip(stream["layer"], stream["site"], strict=True)]
    )
    blocks = recording.branches["layer"].tolist()
    inputs = stream.query("site == 'input'")["layer"].tolist()
    assert inputs == blocks
    assert len(stream) == len(blocks) + (2 if name == "t5" else 1)
    caption = recording.figures.depth_profile()
    assert "stream" in [text.get_text() for ax in caption.axes for text in ax.texts]
    without = normprobe.record(tiny(name), [batch(name)])
    assert summarize(without.tables.activations).stream.empty
