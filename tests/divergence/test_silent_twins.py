"""A layer that fired in one model only, where one of its shape never fired in the other; shared tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe import compare
from tests.helpers.comparison_models import record


class Block(nn.Module):
    """Queries and keys go through norms; a port looks for these under the names it knows."""

    def __init__(self, names: dict[str, str], used: bool, make: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.o = (nn.Linear(16, 16) for _ in range(3))
        for name in names.values():
            setattr(self, name, make())
        self.names, self.used = names, used

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x), self.k(x)
        if self.used:
            q, k = getattr(self, self.names["q"])(q), getattr(self, self.names["k"])(k)
        out: Tensor = self.o((q @ k.mT).softmax(-1) @ x)
        return out


def stack(names: dict[str, str], used: bool, make: Any) -> nn.Module:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Block(names, used, make) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + layer(x)
            return x

    return Model().eval()


OURS, THEIRS = {"q": "q_norm", "k": "k_norm"}, {"q": "query_layernorm", "k": "key_layernorm"}
MAKERS = {"norms": lambda: nn.RMSNorm(16), "Linear layers": lambda: nn.Linear(16, 16)}


@pytest.mark.parametrize("what", MAKERS)
@pytest.mark.parametrize("silent", ["second", "first"])
def test_both_are_named_in_verdict_reasons_findings_and_fields(what: str, silent: str) -> None:
    used, unused = (record(stack(n, u, MAKERS[what])) for n, u in ((OURS, True), (THEIRS, False)))
    comparison = compare(used, unused) if silent == "second" else compare(unused, used)
    of, other = ("a", "b") if silent == "second" else ("b", "a")
    pairs = {"layers.0.q_norm": "layers.0.query_layernorm", "layers.1.k_norm": "layers.1.key_layernorm"}
    reasons = comparison.unmatched.set_index(["of", "layer"])["reason"]
    for fired, twin in pairs.items():
        assert reasons[of, fired] == (
            f"fired in {of} only; {twin} of {other}, of its shape and in its place, never fired"
        )
        assert reasons[other, twin] == f"never fired; {fired} of {of}, of its shape and in its place, fired"
        assert [of, fired, [twin], "never fired"] in comparison.meta["silent_twins"]
    first = comparison.first_divergence
    assert first is not None
    assert first.layer == "layers.0.o"
    for name in ("layers.0.q_norm", "layers.0.query_layernorm", "never fired", "3 more"):
        assert name in comparison.verdict
    alone = comparison.findings().query("check == 'not_compared'").iloc[0]
    assert "layers.0.query_layernorm" in alone["message"]


def test_one_of_another_width_or_place_is_no_twin() -> None:
    model = stack(OURS, True, MAKERS["norms"])
    other = stack({"q": "x", "k": "y"}, False, lambda: nn.RMSNorm(8))
    comparison = compare(record(model), record(other))
    assert comparison.meta["silent_twins"] == []
    assert not comparison.unmatched["reason"].str.contains("in its place").any()


def test_equal_models_with_an_unused_layer_have_none() -> None:
    one, two = (record(stack(OURS, False, MAKERS["norms"])) for _ in range(2))
    assert compare(one, two).meta["silent_twins"] == []


def test_the_tensor_between_two_layers_has_one_error() -> None:
    """What a Linear gives is what the norm after it reads, though more rows are kept at the norm."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 16))
    rounded = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 16))
    rounded.load_state_dict(model.state_dict())
    with torch.no_grad():
        rounded[0].weight.copy_((rounded[0].weight * 32).round() / 32)
    x = torch.randn(40, 5, 16)
    a, b = (normprobe.record(each, [x]) for each in (model, rounded))
    found = compare(a, b).layers.set_index(["layer", "site"])
    assert found["pairs"]["0", "output"] == found["pairs"]["1", "input"] == 64
    assert found["error_db"]["0", "output"] == found["error_db"]["1", "input"]
    assert found["introduced_db"]["1", "input"] == float("-inf")
    paired = [torch.from_numpy(recording.values("1", "input")) for recording in (a, b)]
    noise, signal = (paired[1] - paired[0]).square().sum(), paired[0].square().sum()
    assert found["error_db"]["0", "output"] == pytest.approx(float(10 * (noise / signal).log10()), abs=1e-6)
