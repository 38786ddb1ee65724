"""Parameters and buffers of all modules: what is not measured and differs is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe import Comparison, compare, compare_live
from normprobe.capture.live_pairs.stored_tensors import stored_tensors
from normprobe.divergence.stored_differences import stored_differences


class Net(nn.Module):
    """A convolution before the first norm, and another between two."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.fc(self.bn2(self.conv2(x)).relu().mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def data() -> Tensor:
    return torch.randn(16, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def changed(change: Callable[[Any], object]) -> Net:
    twin = copy.deepcopy(net())
    with torch.no_grad():
        change(twin)
    return twin


def both_ways(b: nn.Module) -> list[Comparison]:
    """The comparison of recordings with the models at hand, and the one side by side."""
    a = net()
    recordings = normprobe.record(a, data()), normprobe.record(b, data())
    return [compare(*recordings, models=(a, b)), compare_live(a, b, data())]


@pytest.mark.parametrize("way", [0, 1])
def test_a_convolution_before_the_first_layer_is_named(way: int) -> None:
    comparison = both_ways(changed(lambda m: m.conv1.weight.mul_(1.1)))[way]
    assert comparison.verdict.endswith(
        "before any layer compared: conv1.weight differs by about 10 % (not measured)."
    )
    assert "data" not in str(comparison)
    finding = comparison.findings().iloc[0]
    assert finding["advice"] == "Load the same conv1.weight into both, then compare again."
    assert comparison.to_dict()["not_measured"] == [{"tensor": "conv1.weight", "said": "by about 10 %"}]


@pytest.mark.parametrize("way", [0, 1])
def test_one_between_two_layers_is_named_with_the_place(way: int) -> None:
    comparison = both_ways(changed(lambda m: m.conv2.weight.mul_(0.5)))[way]
    assert "on the way to this one (bn1 runs before it). conv2.weight differs by about" in comparison.verdict


def test_without_the_models_a_layer_that_is_not_measured_is_a_possibility() -> None:
    a, b = (normprobe.record(m, data()) for m in (net(), changed(lambda m: m.conv1.weight.mul_(1.1))))
    comparison = compare(a, b)
    assert comparison.verdict.endswith(
        "before any layer compared: it arises in a layer before it that is not measured (convolution, "
        "embedding); compare the models themselves to see which (normprobe compare MODEL MODEL; in Python "
        "compare(..., models=(a, b)))."
    )
    assert "data" not in str(comparison), "their fingerprints are equal"
    assert comparison.findings().iloc[0]["advice"].startswith("Compare the models themselves to see which (")
    assert comparison.to_dict()["not_measured"] is None


def test_where_all_that_is_stored_is_alike_that_is_said() -> None:
    model = net()
    a, b = normprobe.record(model, data()), normprobe.record(model, data() + 0.1 * data().roll(1, -1))
    comparison = compare(a, b, same_data=True, models=(model, net()))
    assert "or what runs before it; all that the two store is alike." in comparison.verdict
    assert comparison.to_dict()["not_measured"] == []


def test_equal_models_with_a_difference_that_changes_nothing_say_so() -> None:
    def with_spare(value: float) -> nn.Module:
        model = net()
        model.spare = nn.Conv2d(1, 1, 1)
        with torch.no_grad():
            model.spare.weight.fill_(value)
            model.spare.bias.fill_(1.0)
        return model

    a, b = with_spare(1.0), with_spare(2.0)
    comparison = compare(normprobe.record(a, data()), normprobe.record(b, data()), models=(a, b))
    assert comparison.verdict_code == "equal"
    assert "\nspare.weight differs by about 100 % (not measured)." in str(comparison)


def test_weights_of_linear_layers_are_causes_where_models_are_at_hand() -> None:
    comparison = both_ways(changed(lambda m: m.fc.weight[0].mul_(3.0)))[0]
    assert comparison.first_divergence is not None
    assert comparison.first_divergence.differs == ("weight",)
    assert "Its weight differs by" in comparison.verdict
    assert comparison.to_dict()["not_measured"] == []


def test_models_need_not_be_in_memory_together() -> None:
    a, b = net(), changed(lambda m: m.conv1.weight.mul_(1.1))
    recordings = normprobe.record(a, data()), normprobe.record(b, data())
    stored = normprobe.comparison.stored_tensors(a), normprobe.comparison.stored_tensors(b)
    assert compare(*recordings, models=stored).verdict == compare(*recordings, models=(a, b)).verdict


def differing(a: nn.Module, b: nn.Module) -> dict[str, str]:
    return {d.name: d.said for d in stored_differences(stored_tensors(a), stored_tensors(b))}


def test_rounding_to_another_dtype_is_no_difference_and_more_is() -> None:
    assert differing(net(), net().bfloat16()) == {}
    assert differing(net().bfloat16(), net()) == {}
    assert list(differing(net(), changed(lambda m: m.conv1.weight.mul_(1.05)).bfloat16())) == ["conv1.weight"]


def test_a_tied_tensor_is_named_once_and_wrappers_and_adapters_are_seen_through() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False)
            self.head.weight = self.embed.weight

    class Adapter(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base_layer, self.lora_A = base, nn.Linear(8, 2)

    torch.manual_seed(0)
    a = Tied()
    b = copy.deepcopy(a)
    with torch.no_grad():
        b.embed.weight.mul_(2.0)
    assert list(differing(a, b)) == ["embed.weight"]
    assert list(differing(a, nn.DataParallel(b))) == ["embed.weight"]
    adapted = copy.deepcopy(b)
    adapted.embed = Adapter(adapted.embed)  # type: ignore[assignment]
    assert differing(a, adapted)["embed.weight"].startswith("by about")


def test_shapes_and_nan_are_said_in_words() -> None:
    wide = net()
    wide.conv1 = nn.Conv2d(3, 6, 5)
    assert differing(net(), wide)["conv1.weight"] == "in its shape: 6 x 3 x 3 x 3 against 6 x 3 x 5 x 5"
    broken = changed(lambda m: m.conv1.bias[0].fill_(torch.nan))
    assert differing(net(), broken) == {"conv1.bias": "in its NaN and infinite values: 0 against 1"}
    zero = changed(lambda m: m.conv1.bias.zero_())
    assert differing(zero, net()) == {"conv1.bias": "where the first has 0"}


@pytest.mark.parametrize("way", [0, 1])
def test_a_setting_of_a_convolution_is_named(way: int) -> None:
    a, b = Net().eval(), Net().eval()
    b.conv2 = nn.Conv2d(6, 6, 3, bias=False, padding=1, padding_mode="reflect").eval()
    a.conv2 = nn.Conv2d(6, 6, 3, bias=False, padding=1).eval()
    b.load_state_dict(a.state_dict())
    recordings = normprobe.record(a, data()), normprobe.record(b, data())
    found = [lambda: compare(*recordings, models=(a, b)), lambda: compare_live(a, b, data())][way]()
    said = "conv2 differs in its settings: padding_mode=reflect in the second only (not measured)."
    assert said in found.verdict
    assert found.findings().iloc[0]["advice"] == "Make conv2 alike in both, then compare again."
    assert found.to_dict()["not_measured"] == [
        {"tensor": "conv2", "said": "in its settings: padding_mode=reflect in the second only"}
    ]


def test_settings_are_compared_value_by_value_and_only_where_they_can_matter() -> None:
    def model(dilation: int, drop: float, slope: float, act: type[nn.Module] = nn.ReLU) -> nn.Module:
        torch.manual_seed(0)
        parts = [
            nn.Conv2d(3, 3, 3, dilation=dilation),
            nn.Dropout(drop),
            nn.LeakyReLU(slope),
            act(),
            nn.GroupNorm(1, 3),
        ]
        return nn.Sequential(*parts).eval()

    def said(a: nn.Module, b: nn.Module) -> list[tuple[str, str]]:
        return [(d.name, d.said) for d in stored_differences(stored_tensors(a), stored_tensors(b))]

    assert said(model(1, 0.1, 0.01), model(1, 0.5, 0.01, nn.GELU)) == [], "evaluation mode, another class"
    assert said(model(2, 0.1, 0.01), model(3, 0.1, 0.02)) == [
        ("0", "in its settings: dilation=(2, 2) against dilation=(3, 3)"),
        ("2", "in its settings: negative_slope=0.01 against negative_slope=0.02"),
    ]


def test_more_than_three_are_named_by_their_number_behind_a_semicolon() -> None:
    def model(value: float) -> nn.Module:
        parts = [nn.Conv1d(1, 1, 1) for _ in range(5)]
        for part in parts:
            nn.init.constant_(part.weight, 1.0)
            nn.init.constant_(part.bias, 1.0)
        for part in parts[:5]:
            nn.init.constant_(part.weight, value)
        return nn.Sequential(*parts, nn.BatchNorm1d(1)).eval()

    x = torch.randn(8, 1, 4)
    found = compare_live(model(1.0), model(float("nan")), x)
    nan = "weight differs in its NaN and infinite values: 0 against 1"
    assert f"0.{nan}; 1.{nan}; 2.{nan}; and 2 more (not measured)." in found.verdict
