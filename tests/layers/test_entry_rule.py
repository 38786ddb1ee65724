"""The rule of entry: what counts as a Linear or a norm, by class and what it stores, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normprobe.layers.entry_rule import Candidate, candidate_of
from normprobe.layers.find import find_layers
from normprobe.layers.layer import modules_of
from normprobe.layers.module_attributes import eps_of
from normprobe.layers.view import View


def candidate(module: nn.Module) -> Candidate | None:
    return candidate_of(modules_of(module)[0], {})


def view_of(module: nn.Module) -> View | None:
    found = candidate(module)
    return None if found is None else found.view


class Named(nn.Module):
    """A module with one vector, to be given any class name."""

    def __init__(self, **attributes: object) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return x


def named(name: str, **attributes: object) -> nn.Module:
    return type(name, (Named,), {})(**attributes)


@pytest.mark.parametrize(
    "module",
    [nn.Conv2d(3, 4, 1), nn.Embedding(3, 4), nn.ReLU(), nn.Dropout(), nn.Identity()],
    ids=lambda module: type(module).__name__,
)
def test_what_is_no_layer_has_no_view(module: nn.Module) -> None:
    assert view_of(module) is None


@pytest.mark.parametrize(
    ("name", "attributes", "kind", "axis"),
    [
        ("MyRMSNorm", {}, "rms_norm", -1),
        ("LlamaRmsnorm", {}, "rms_norm", -1),
        ("FancyLayerNorm", {}, "layer_norm", -1),
        ("FancyLayerNorm2d", {}, "layer_norm", 1),
        ("ChannelsLayerNorm", {"data_format": "channels_first"}, "layer_norm", 1),
        ("ChannelsLayerNorm", {"data_format": "channels_last"}, "layer_norm", -1),
        ("FrozenBatchNorm2d", {}, "batch_norm", 1),
        ("MyInstanceNorm", {}, "instance_norm", 1),
        ("MyGroupNorm", {}, "group_norm", 1),
        ("Renormalizer", {}, "norm", -1),
        ("Scaler", {"variance_epsilon": 1e-6}, "norm", -1),
        ("Scaler", {"rms_norm_eps": 1e-6}, "norm", -1),
        ("Tracker", {"eps": 1e-5, "running_mean": 0, "running_var": 1}, "batch_norm", 1),
    ],
)
def test_names_and_buffers_of_unknown_norms(
    name: str, attributes: dict[str, object], kind: str, axis: int
) -> None:
    view = view_of(named(name, **attributes))
    assert view is not None
    assert (view.kind, view.axis, view.certain) == (kind, axis, False)


def test_an_eps_must_be_a_float() -> None:
    assert view_of(named("Scaler", eps=1)) is None
    assert view_of(named("Scaler", eps=None)) is None
    assert eps_of(nn.LayerNorm(3, eps=1e-3)) == 1e-3
    assert eps_of(nn.RMSNorm(3)) == torch.finfo(torch.float32).eps
    assert eps_of(nn.Linear(3, 3)) is None


def test_a_quantized_linear_whose_weight_is_a_method_is_linear() -> None:
    class QuantizedLinear(nn.Module):
        in_features, out_features = 3, 4

        def weight(self) -> Tensor:
            return torch.zeros(4, 3)

    view = view_of(QuantizedLinear())
    assert view is not None
    assert view.kind == "linear"


def test_what_contains_a_layer_is_a_container() -> None:
    class WrapperNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.inner = nn.Parameter(torch.ones(4)), nn.LayerNorm(4)

    (outer, inner) = modules_of(WrapperNorm())
    assert candidate_of(outer, {}) is not None
    assert candidate_of(outer, {id(inner.module): find_layers(inner.module).layers[0]}) is None


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_what_is_refused_on_entry() -> None:
    bilinear, scripted = candidate(nn.Bilinear(2, 2, 2)), candidate(torch.jit.script(nn.LayerNorm(4)))
    assert bilinear == Candidate(
        View("linear"), "Bilinear", "it reads two inputs at once, which no table has a place for"
    )
    assert scripted == Candidate(
        View("layer_norm"), "LayerNorm", "a scripted module takes no hooks; probe the eager model"
    )
    assert candidate(torch.jit.script(nn.ReLU())) is None
