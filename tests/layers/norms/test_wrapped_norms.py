"""A scale of its own round one norm that has none: together they are one norm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import normprobe


class ScaledNorm(nn.Module):
    """A bare norm, then gamma, or 1 + gamma."""

    def __init__(self, inner: nn.Module, *, offset: float = 0.0) -> None:
        super().__init__()
        self.inner, self.offset = inner, offset
        self.gamma = nn.Parameter(torch.linspace(0.2, 3.0, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * (self.offset + self.gamma)


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize(
    ("inner", "kind"),
    [
        (nn.LayerNorm(8, eps=1e-3, elementwise_affine=False), "layer_norm"),
        (nn.RMSNorm(8, eps=1e-3, elementwise_affine=False), "rms_norm"),
    ],
)
def test_the_wrapper_is_the_norm_with_its_own_scale(inner: nn.Module, kind: str, offset: float) -> None:
    model = nn.Sequential(nn.Linear(8, 8), ScaledNorm(inner, offset=offset))
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * 3
    with torch.no_grad(), normprobe.Probe(model) as probe:
        y = model(x)
    ledger = probe.recording.ledger.set_index("layer")
    assert ledger.loc["1", ["kind", "eps", "affine", "status"]].tolist() == [kind, 1e-3, True, "fired"]
    assert ledger.loc["1.inner", ["kind", "affine", "status"]].tolist() == [kind, False, "fired"]
    outer = probe.recording.features.query("layer == '1' and site == 'output'")
    assert outer.weight.tolist() == pytest.approx((model[1].gamma + offset).tolist())
    assert outer.variance.tolist() == pytest.approx(y.double().var(0, unbiased=False).tolist())
    inner_rows = probe.recording.features.query("layer == '1.inner' and site == 'output'")
    assert inner_rows.weight.tolist() == [1.0] * 8


def test_an_outlier_of_the_wrappers_scale_is_found() -> None:
    norm = ScaledNorm(nn.LayerNorm(8, elementwise_affine=False))
    with torch.no_grad():
        norm.gamma[:] = 1.0
        norm.gamma[5] = 60.0
    recording = normprobe.record(nn.Sequential(nn.Linear(8, 8), norm), [torch.randn(50, 8)] * 2)
    found = recording.findings().query("check == 'outlier_norm_weight'")
    assert found["layer"].tolist() == ["1"]


def test_a_wrapper_without_a_scale_is_a_container() -> None:
    class PassingNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    with torch.no_grad(), normprobe.Probe(PassingNorm()) as probe:
        probe.model(torch.randn(50, 8))
    assert probe.recording.ledger["layer"].tolist() == ["inner"]
