"""What of a layer's own differs, by kind: in the verdict, in fields, in findings, of recordings and live."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe import Comparison, compare, compare_live


class Scaled(nn.Module):
    """A root mean square norm that scales by its weight, or by 1 + weight."""

    def __init__(self, width: int, offset: float = 0.0) -> None:
        super().__init__()
        self.weight, self.offset, self.eps = nn.Parameter(torch.rand(width) + 0.5), offset, 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * (self.weight + self.offset)


class OwnNorm(nn.LayerNorm):
    """The same as its base, under another name, but for the shift."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1


class Grouped(nn.Module):
    """A norm over groups of channels, written by hand."""

    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.groups, self.eps = groups, 1e-5

    def forward(self, x: Tensor) -> Tensor:
        parts = x.reshape(*x.shape[:-1], self.groups, -1)
        return (parts * (parts.square().mean(-1, keepdim=True) + self.eps).rsqrt()).reshape(x.shape)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 16),
        nn.BatchNorm1d(16),
        nn.Linear(16, 16),
        nn.LayerNorm(16),
        nn.Linear(16, 16),
        Scaled(16),
        nn.GroupNorm(4, 16),
        nn.Linear(16, 16),
    )
    with torch.no_grad():
        for norm in (model[1], model[3], model[6]):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2.0)
    return model.eval()


def data() -> Tensor:
    return torch.randn(64, 6, generator=torch.Generator().manual_seed(1))


def unit_offset(model: nn.Sequential) -> None:
    model[5].offset = 1.0


def no_bias(model: nn.Sequential) -> None:
    model[2].bias = None


KINDS: dict[str, tuple[Callable[[Any], object], str, str, tuple[str, ...]]] = {
    "eps": (lambda m: setattr(m[3], "eps", 0.1), "3", "eps", ("eps is 1e-05 against 0.1",)),
    "eps of a BatchNorm": (lambda m: setattr(m[1], "eps", 0.5), "1", "eps", ("eps is 1e-05 against 0.5",)),
    "scale": (lambda m: m[3].weight[5].mul_(3), "3", "scale", ("scale (weight)", "1 of 16", "feature 5")),
    "scale not loaded": (
        lambda m: m[3].weight.fill_(1),
        "3",
        "scale",
        ("scale", "1 throughout in the second"),
    ),
    "scale in another order": (
        lambda m: m[3].weight.copy_(m[3].weight.flip(0)),
        "3",
        "scale",
        ("scale (weight) has the same numbers in another order",),
    ),
    "shift": (lambda m: m[3].bias[2].add_(1), "3", "shift", ("shift (bias)", "1 of 16", "feature 2")),
    "shift not there": (
        lambda m: setattr(m[3], "bias", None),
        "3",
        "shift",
        ("shift (bias) is 0 throughout",),
    ),
    "running mean": (
        lambda m: m[1].running_mean[7].add_(2),
        "1",
        "running mean",
        ("running mean", "feature 7"),
    ),
    "running variance": (
        lambda m: m[1].running_var.fill_(1),
        "1",
        "running variance",
        ("running variance is 1 throughout in the second",),
    ),
    "mode": (lambda m: m[1].train(), "1", "mode", ("eval mode against train mode",)),
    "unit offset": (unit_offset, "5", "unit offset", ("unit offset", "1 + weight")),
    "groups": (
        lambda m: setattr(m[6], "num_groups", 2),
        "6",
        "num_groups",
        ("num_groups is 4 against 2",),
    ),
    "class": (lambda m: m.__setitem__(3, renamed(m[3])), "3", "class", ("layernorm against ownnorm",)),
    "kind": (lambda m: m.__setitem__(3, nn.RMSNorm(16)), "3", "kind", ("layer_norm against rms_norm",)),
    "bias of a Linear": (no_bias, "2", "bias", ("it has a bias in the first only",)),
    "bias of another value": (
        lambda m: m[2].bias.add_(torch.linspace(-1, 1, 16)),
        "2",
        "shift of all rows",
        ("every row moves by one vector", "bias"),
    ),
}


def renamed(norm: nn.LayerNorm) -> OwnNorm:
    other = OwnNorm(16)
    other.load_state_dict(norm.state_dict())
    return other


def recorded(model: nn.Module) -> normprobe.Recording:
    """In the modes that the model is in."""
    with normprobe.Probe(model) as probe, torch.no_grad():
        model(data())
    return probe.recording


def changed(change: Callable[[Any], object]) -> nn.Sequential:
    twin = copy.deepcopy(net())
    with torch.no_grad():
        change(twin)
    return twin


def said(comparison: Comparison, tmp: Any) -> list[str]:
    """Wherever a comparison is put in words for a person."""
    from normprobe.divergence import sentences
    from normprobe.report import comparison_text

    found = comparison.differences
    terminal = comparison_text(found, sentences(found), width=100, unicode=True)
    first = comparison.findings().query("check == 'first_divergence'").iloc[0]
    page = comparison.report(tmp).read_text(encoding="utf-8")
    return [comparison.verdict, first.message, " ".join(terminal.split()), page]


@pytest.mark.parametrize("kind", KINDS)
def test_a_verdict_says_what_differs_at_the_layer_that_it_names(kind: str) -> None:
    change, layer, what, words = KINDS[kind]
    comparison = compare(recorded(net()), recorded(changed(change)))
    first = comparison.first_divergence
    assert first is not None
    assert (first.layer, first.site) == (layer, "output")
    assert what in first.differs
    for word in words:
        assert word in comparison.verdict.lower()
    causes = comparison.causes
    assert what in set(causes.loc[causes["layer"] == layer, "what"])
    assert set(causes["layer"]) == {layer}
    own = comparison.layers.set_index(["layer", "site"])["differs"]
    assert own[layer, "output"] == "; ".join(causes["said"])
    assert (own.drop(layer) == "").all()
    advice = comparison.findings().query("check == 'first_divergence'")["advice"].iloc[0]
    assert what in advice


def test_it_is_said_wherever_a_person_reads(tmp_path: Any) -> None:
    comparison = compare(recorded(net()), recorded(changed(KINDS["eps"][0])))
    for text in said(comparison, tmp_path):
        assert "eps is 1e-05 against 0.1" in text
    table = (tmp_path / "comparison.csv").read_text(encoding="utf-8")
    assert "its eps is 1e-05 against 0.1" in table


LIVE = {
    **{kind: case[2:] for kind, case in KINDS.items() if kind not in {"mode", "bias of another value"}},
    "bias of another value": ("bias", ("its bias differs by",)),
}


@pytest.mark.parametrize("kind", LIVE)
def test_models_side_by_side_say_it_too(kind: str) -> None:
    change, layer = KINDS[kind][:2]
    what, words = LIVE[kind]
    comparison = compare_live(net(), changed(change), [data()])
    first = comparison.first_divergence
    assert first is not None
    assert first.layer == layer
    assert what in first.differs
    for word in words:
        assert word in comparison.verdict.lower()


def test_side_by_side_weights_of_linear_layers_are_compared() -> None:
    comparison = compare_live(net(), changed(lambda m: m[4].weight.mul_(1.02)), [data()])
    assert comparison.first_divergence is not None
    assert comparison.first_divergence.differs == ("weight",)
    assert "Its weight differs by 2 %." in comparison.verdict
    assert list(comparison.causes["what"]) == ["weight"]


def test_equal_models_have_no_cause_and_other_dtypes_are_none() -> None:
    assert compare(recorded(net()), recorded(net())).causes.empty
    assert compare_live(net(), net(), [data()]).causes.empty
    half = compare_live(net(), net().bfloat16(), [data()])
    assert set(half.causes["what"]) <= {"dtype"}
    assert "computes in" not in half.verdict
    assert half.verdict_code == "within_precision"


def test_a_hand_written_norm_says_its_groups() -> None:
    one, other = (nn.Sequential(nn.Linear(6, 16), Grouped(groups, 16), nn.Linear(16, 4)) for groups in (4, 8))
    other.load_state_dict(one.state_dict())
    comparison = compare(recorded(one), recorded(other))
    assert "groups is 4 against 8" in comparison.verdict


def test_the_mode_of_whole_models_is_said_once() -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 16), nn.LayerNorm(16)).eval()
    one = recorded(model)
    comparison = compare(one, recorded(copy.deepcopy(model).train()))
    assert comparison.verdict.count("mode") == 2
    assert "The first ran in eval mode, the second in train mode." in comparison.verdict


def test_what_differs_later_is_said_there() -> None:
    def two(model: Any) -> None:
        model[1].eps = 0.5
        model[3].eps = 0.1

    comparison = compare(recorded(net()), recorded(changed(two)))
    assert "More error arises at 3 (its eps is 1e-05 against 0.1)" in str(comparison)
    again = comparison.findings().query("check == 'introduces_error'").iloc[0]
    assert "its eps is 1e-05 against 0.1" in again.message


def test_on_other_data_the_cause_is_said_as_well() -> None:
    model = changed(lambda m: m[3].bias.add_(5))
    with normprobe.Probe(model) as probe, torch.no_grad():
        model(torch.randn(64, 6, generator=torch.Generator().manual_seed(2)))
    comparison = compare(recorded(net()), probe.recording)
    assert "Its shift (bias) differs in 16 of 16 features" in comparison.verdict


def test_what_makes_no_difference_is_in_the_fields_alone() -> None:
    comparison = compare(recorded(net()), recorded(changed(lambda m: setattr(m[3], "eps", 1.1e-5))))
    assert list(comparison.causes["what"]) == ["eps"]
    assert comparison.verdict_code in {"equal", "within_rounding"}


@pytest.mark.filterwarnings("ignore")  # torch warns that its quantized modules move to another package
@pytest.mark.parametrize("bias", [True, False])
def test_a_quantized_linear_is_called_so_and_has_the_bias_it_has(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16, bias=bias), nn.LayerNorm(16), nn.Linear(16, 4, bias=bias)).eval()
    quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    live = compare_live(model, quantized, [torch.randn(32, 8)])
    a, b = (normprobe.record(each, [torch.randn(32, 8)]) for each in (model, quantized))
    for comparison in (live, compare(a, b)):
        assert comparison.causes["what"].tolist() == ["class", "class"]
        assert set(comparison.causes["said"]) == {"its class is Linear against quantized Linear"}
    assert live.verdict.endswith("Its class is Linear against quantized Linear.")


def test_a_bias_that_is_a_method_of_ones_own_is_neither_called_nor_taken_for_none() -> None:
    class Own(nn.Module):
        in_features, out_features = 8, 4

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 8))

        def bias(self) -> Tensor:
            raise AssertionError

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.T

    torch.manual_seed(0)
    own = Own().eval()
    Own.__name__ = "OwnLinear"
    plain = nn.Linear(8, 4)
    plain.load_state_dict({"weight": own.weight.detach(), "bias": torch.zeros(4)})
    causes = compare_live(nn.Sequential(plain), nn.Sequential(own), [torch.randn(32, 8)]).causes
    assert causes["what"].tolist() == ["class"]
