"""Differences that a later layer undoes: the verdict says where they are gone, and what is left."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normprobe import Comparison, compare, compare_live
from tests.helpers.comparison_models import Net, batches, net, record


class Attention(nn.Module):
    """Queries and keys meet in a product that no rotation of both changes."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.o((self.q(x) @ self.k(x).mT).softmax(-1) @ self.v(x))
        return out


def rotation(width: int = 16) -> Tensor:
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(4))).Q


def fold(norm: nn.LayerNorm, *linears: nn.Linear) -> None:
    """The norm's scale and shift put into the Linear layers that read it."""
    for linear in linears:
        linear.bias += linear.weight @ norm.bias
        linear.weight *= norm.weight
    norm.weight.fill_(1)
    norm.bias.zero_()


def folded(model: Net) -> None:
    for block in model.layers:
        fold(block.first_norm, block.query, block.key, block.value)
        fold(block.second_norm, block.up)


def permuted(model: Net) -> None:
    block, order = model.layers[1], torch.randperm(32, generator=torch.Generator().manual_seed(3))
    block.up.weight.copy_(block.up.weight[order])
    block.up.bias.copy_(block.up.bias[order])
    block.down.weight.copy_(block.down.weight[:, order])


def of_net(change: Callable[[Any], object], compared: str) -> Comparison:
    model = net()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        change(twin)
    if compared == "live":
        return compare_live(model, twin, batches())
    return compare(record(model), record(twin))


@pytest.mark.parametrize("compared", ["recordings", "live"])
@pytest.mark.parametrize(
    ("change", "first", "behind"),
    [(folded, "layers.0.first_norm", "layers.0.query"), (permuted, "layers.1.up", "layers.1.down")],
    ids=["folded scales", "channels in another order"],
)
def test_it_is_gone_behind_the_layer_that_undoes_it(
    change: Callable[[Any], object], first: str, behind: str, compared: str
) -> None:
    comparison = of_net(change, compared)
    found = comparison.first_divergence
    assert found is not None
    assert (found.layer, found.site, found.undone_behind) == (first, "output", behind)
    assert f"gone behind {behind}, whose output agrees again" in comparison.verdict
    assert "the last layer, norm, gives the same in both" in comparison.verdict
    findings = comparison.findings()
    assert "error" not in set(findings["severity"])
    assert "introduces_error" not in set(findings["check"])
    assert "More error" not in str(comparison)


def test_a_rotation_that_no_layer_reads_does_not_last() -> None:
    torch.manual_seed(0)
    model = Attention()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for linear in (twin.q, twin.k):
            linear.weight.copy_(rotation() @ linear.weight)
    comparison = compare(record(model), record(twin))
    assert comparison.first_divergence is not None
    assert comparison.first_divergence.undone_behind is None
    assert "It does not last: all layers after k (its output) agree again" in comparison.verdict


def test_a_rotated_stream_is_gone_behind_the_head() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.RMSNorm(16), nn.Linear(16, 4))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[0].weight.copy_(rotation() @ twin[0].weight)
        twin[0].bias.copy_(rotation() @ twin[0].bias)
        twin[2].weight.copy_(twin[2].weight @ rotation().T)
    comparison = compare(record(model), record(twin))
    assert comparison.first_divergence is not None
    assert comparison.first_divergence.undone_behind == "2"


def test_what_is_left_behind_a_folded_norm_is_named() -> None:
    def folded_and_faulty(model: Net) -> None:
        folded(model)
        model.layers[1].down.weight.mul_(1.05)

    comparison = of_net(folded_and_faulty, "recordings")
    found = comparison.first_divergence
    assert found is not None
    assert found.undone_behind == "layers.0.query"
    assert "what differs to the end begins at layers.1.down (its output)" in comparison.verdict
    assert "error" in set(comparison.findings()["severity"])


def test_a_difference_that_lasts_is_never_said_to_be_gone() -> None:
    comparison = of_net(lambda m: m.layers[0].down.weight.mul_(1.05), "recordings")
    assert comparison.first_divergence is not None
    assert comparison.first_divergence.undone_behind is None
    assert "agree again" not in comparison.verdict


def test_a_result_of_its_own_is_not_said_to_be_gone() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.other, self.main = nn.Linear(16, 4), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.other(x), self.main(x)

    model = Heads()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.other.weight.mul_(1.1)
    comparison = compare(record(model), record(twin))
    assert "gone" not in comparison.verdict
    assert comparison.findings()["severity"].iloc[0] == "error"
