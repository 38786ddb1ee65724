"""Which modules are layers, decided from the modules alone; their names, aliases and filters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel
from transformers.models.levit import LevitConfig, LevitModel

import normprobe
from normprobe.errors import NoLayersError
from normprobe.layers.find import Layer, find_layers


def kinds(model: nn.Module, **filters: object) -> dict[str, str]:
    return {layer.name: layer.view.kind for layer in find_layers(model, **filters).layers}


def only(model: nn.Module) -> Layer:
    (layer,) = find_layers(model).layers
    return layer


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def scale(width: int = 4) -> nn.Parameter:
    return nn.Parameter(torch.linspace(0.5, 1.5, width))


class T5LayerNorm(nn.Module):
    """As in T5: no mean is subtracted, whatever the name says."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = scale(), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()


class GemmaRMSNorm(nn.Module):
    """As in Gemma: the stored weight is an offset from 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.tensor([0.0, 0.5, -0.5, 0.25])), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return (1 + self.weight) * x * (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt()


class L2Norm(nn.Module):
    """As in Llama 4: an RMSNorm without a weight."""

    eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt()


class FrozenBatchNorm2d(nn.Module):
    """As in DETR: a BatchNorm all of whose numbers are buffers."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in (("weight", 2.0), ("bias", 1.0), ("running_mean", 0.5), ("running_var", 4.0)):
            self.register_buffer(name, torch.full((3,), value))

    def forward(self, x: Tensor) -> Tensor:
        factor = self.weight / (self.running_var + 1e-5).sqrt()
        return x * factor[:, None, None] + (self.bias - self.running_mean * factor)[:, None, None]


class NoNorm(nn.Module):
    """As in MobileBERT: only a scale and a shift."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = scale(), nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


class Conv1D(nn.Module):
    """As in GPT-2: a Linear whose weight is (in, out)."""

    def __init__(self, n_out: int, n_in: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_in, n_out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class ConvNormLayer(nn.Module):
    """A container, though its name says norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)


class RobertaPreLayerNormOutput(nn.Module):
    """A container with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma, self.dense = scale(), nn.Linear(4, 4)


class NormedEmbedding(nn.Module):
    """A table of vectors, not a norm: its first call, not its name, shows that."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.randn(9, 4)), 1e-6


class NormalizedActivation(nn.Module):
    """Children, and no parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.eps, self.act = 1e-6, nn.PReLU()


class GatedNorm(nn.Module):
    """Children beside a scale of its own: a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.act = scale(), nn.SiLU()


class Scaler(nn.Module):
    """Nothing in its name, but an eps."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.layer_norm_eps = scale(), 1e-5


def test_layers_of_torch_in_order_of_definition() -> None:
    model = nn.Sequential(
        nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU(), nn.RMSNorm(4), nn.BatchNorm1d(4), nn.GroupNorm(2, 4)
    )
    assert list(kinds(model).items()) == [
        ("0", "linear"),
        ("1", "layer_norm"),
        ("3", "rms_norm"),
        ("4", "batch_norm"),
        ("5", "group_norm"),
    ]


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (T5LayerNorm(), "layer_norm"),
        (GemmaRMSNorm(), "rms_norm"),
        (L2Norm(), "norm"),
        (FrozenBatchNorm2d(), "batch_norm"),
        (NoNorm(), "norm"),
        (GatedNorm(), "norm"),
        (Scaler(), "norm"),
        (NormedEmbedding(), "norm"),
        (Conv1D(5, 4), "linear"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_look_alikes_that_are_layers(module: nn.Module, kind: str) -> None:
    assert kinds(nn.Sequential(module)) == {"0": kind}


@pytest.mark.parametrize(
    ("module", "inside"),
    [
        (ConvNormLayer(), {"norm": "batch_norm"}),
        (RobertaPreLayerNormOutput(), {"dense": "linear"}),
        (NormalizedActivation(), {}),
        (nn.Embedding(9, 4, max_norm=1.0), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_look_alikes_that_are_not(module: nn.Module, inside: dict[str, str]) -> None:
    model = nn.Sequential(module, nn.Linear(2, 2))
    assert kinds(model) == {**{f"0.{name}": kind for name, kind in inside.items()}, "1": "linear"}


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_parametrized_linear_is_one_layer(wrap: object) -> None:
    model = nn.Sequential(wrap(nn.Linear(4, 3)), nn.LayerNorm(3))
    assert kinds(model) == {"0": "linear", "1": "layer_norm"}
    first = find_layers(model).layers[0]
    assert (first.type, first.n_features) == ("ParametrizedLinear", 4)


def test_parametrizations_alone_are_nothing() -> None:
    with pytest.raises(NoLayersError):
        find_layers(parametrizations.weight_norm(nn.Conv1d(2, 2, 1)))


@pytest.mark.parametrize(
    ("model", "x", "kind", "weight"),
    [
        (T5LayerNorm(), torch.randn(6, 4) + 1, "rms_norm", [0.5, 0.8333, 1.1667, 1.5]),
        (GemmaRMSNorm(), torch.randn(6, 4) + 1, "rms_norm", [1.0, 1.5, 0.5, 1.25]),
        (L2Norm(), torch.randn(6, 4) + 1, "rms_norm", [1, 1, 1, 1]),
        (NoNorm(), torch.randn(6, 4) + 1, "norm", [0.5, 0.8333, 1.1667, 1.5]),
        (FrozenBatchNorm2d(), torch.randn(2, 3, 4, 4), "batch_norm", [2.0, 2.0, 2.0]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_first_call_says_what_names_do_not(
    model: nn.Module, x: Tensor, kind: str, weight: list[float]
) -> None:
    recording = normprobe.record(model, x)
    assert recording.ledger["kind"].tolist() == [kind]
    assert recording.layers["kind"].tolist() == [kind, kind]
    output = recording.features.query("site == 'output'")
    assert output["weight"].tolist() == pytest.approx(weight, abs=1e-3)


def test_a_frozen_batch_norm_shows_its_running_statistics() -> None:
    features = normprobe.record(FrozenBatchNorm2d(), torch.randn(2, 3, 4, 4)).features
    before = features.query("site == 'input'")
    assert before["running_mean"].tolist() == [0.5] * 3
    assert before["running_var"].tolist() == [4.0] * 3
    assert features.query("site == 'output'")["bias"].tolist() == [1.0] * 3


def test_a_lazy_linear_is_a_linear_of_unknown_width() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    assert only(model).n_features is None
    recording = normprobe.record(model, torch.randn(5, 7))
    assert recording.ledger["n_features"].tolist() == [7]
    assert recording.layers["n_features"].tolist() == [7, 3]


def test_a_norm_whose_output_has_another_size_is_refused() -> None:
    class MaxNorm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.abs().amax(-1)

    recording = normprobe.record(nn.Sequential(nn.Linear(4, 4), MaxNorm()), torch.randn(5, 4))
    row = recording.ledger.set_index("layer").loc["1"]
    assert row["status"] == "refused"
    assert "its output has 5 elements for an input of 20" in row["reason"]
    assert recording.layers["layer"].tolist() == ["0", "0"]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_scripted_layers_are_refused_and_the_rest_is_probed() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU()))
    model = nn.Sequential(nn.Linear(4, 4), scripted)
    found = {
        layer.name: (layer.view.kind, layer.type, bool(layer.refused)) for layer in find_layers(model).layers
    }
    assert found == {
        "0": ("linear", "Linear", False),
        "1.0": ("linear", "Linear", True),
        "1.1": ("layer_norm", "LayerNorm", True),
    }
    ledger = normprobe.record(model, torch.randn(3, 4)).ledger.set_index("layer")
    assert ledger["status"].to_dict() == {"0": "fired", "1.0": "refused", "1.1": "refused"}
    assert ledger.loc["1.0", "reason"] == "a scripted module takes no hooks; probe the eager model"


def test_what_the_modules_say_of_themselves() -> None:
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(3, 5),
            "norm": nn.LayerNorm((2, 3), eps=1e-3, elementwise_affine=False),
            "batch": nn.BatchNorm2d(7),
            "group": nn.GroupNorm(2, 6),
            "conv": Conv1D(5, 4),
            "own": T5LayerNorm(),
        }
    )
    facts = {layer.name: (layer.n_features, layer.eps, layer.affine) for layer in find_layers(model).layers}
    assert facts == {
        "linear": (3, None, True),
        "norm": (6, 1e-3, False),
        "batch": (7, 1e-5, True),
        "group": (6, 1e-5, True),
        "conv": (4, None, True),
        "own": (4, 1e-6, True),
    }


def test_a_model_that_is_a_layer_has_the_empty_name() -> None:
    assert kinds(nn.Linear(2, 3)) == {"": "linear"}


def test_a_shared_module_is_one_layer_with_aliases() -> None:
    shared = nn.LayerNorm(4)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(nn.Linear(4, 4), shared), "c": shared})
    layers = {layer.name: layer.aliases for layer in find_layers(model).layers}
    assert layers == {"a": ("b.1", "c"), "b.0": ()}
    assert kinds(model, layers="b.*") == {"a": "layer_norm", "b.0": "linear"}


def test_a_container_of_a_layer_found_before_is_still_a_container() -> None:
    class WrappedNorm(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.weight, self.norm = scale(), norm

    inner = nn.LayerNorm(4)
    assert kinds(nn.ModuleDict({"first": inner, "then": WrappedNorm(inner)})) == {"first": "layer_norm"}


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, compiled, lambda m: compiled(nn.DataParallel(m)), lambda m: m],
    ids=["parallel", "compiled", "both", "bare"],
)
def test_the_prefixes_of_wrappers_are_stripped(wrap: object) -> None:
    model = nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))})
    assert kinds(wrap(model)) == {"encoder.0": "linear", "encoder.1": "layer_norm"}
    inner = nn.ModuleDict({"block": compiled(nn.Linear(2, 2)), "bare": nn.Linear(2, 2)})
    assert kinds(inner) == {"block": "linear", "bare": "linear"}
    assert kinds(wrap(nn.Linear(4, 4))) == {"": "linear"}


class Wrapping(nn.Module):
    """A wrapper of no known library."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_only_known_wrappers_are_stripped_from_names() -> None:
    names = {"encoder": nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))}
    bare = {"encoder.0": "linear", "encoder.1": "layer_norm"}
    assert kinds(AveragedModel(nn.ModuleDict(names))) == bare
    # Torch's own names: `get_submodule` must find what the ledger names.
    own = Wrapping(nn.ModuleDict(names))
    assert kinds(own) == {f"module.{name}": kind for name, kind in bare.items()}
    assert kinds(compiled(Wrapping(nn.DataParallel(nn.ModuleDict(names))))) == kinds(own)
    assert kinds(Wrapping(nn.Sequential(Wrapping(nn.Linear(4, 4))))) == {"module.0.module": "linear"}


def test_a_module_of_the_models_own_keeps_its_name() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), Wrapping(nn.LayerNorm(4)))
    assert kinds(inner) == {"0": "linear", "1.module": "layer_norm"}
    assert kinds(nn.DataParallel(inner)) == {"0": "linear", "1.module": "layer_norm"}
    levit = LevitModel(LevitConfig(depths=[1, 1, 1], hidden_sizes=[16, 32, 48], key_dim=[4, 4, 4]))
    names = {name for name, _ in levit.named_modules()}
    layers = [layer.name for layer in find_layers(levit).layers]
    assert set(layers) <= names
    assert any(".module." in name for name in layers)


def test_twins_that_differ_only_by_a_prefix_keep_their_full_names() -> None:
    class Twins(nn.DataParallel):
        def __init__(self) -> None:
            super().__init__(nn.ModuleDict({"fc": nn.Linear(4, 4)}))
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.module["fc"](self.fc(x))

    assert kinds(Twins()) == {"fc": "linear", "module.fc": "linear"}
    assert normprobe.record(Twins(), torch.randn(3, 4)).layers["layer"].tolist() == [
        "fc",
        "fc",
        "module.fc",
        "module.fc",
    ]


MODEL = nn.ModuleDict(
    {
        "encoder": nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(2)]),
        "head": nn.Linear(4, 2),
    }
)


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"layers": "encoder.*"}, ["encoder.0.0", "encoder.0.1", "encoder.1.0", "encoder.1.1"]),
        ({"layers": ["head", "encoder.1.?"]}, ["encoder.1.0", "encoder.1.1", "head"]),
        ({"layers": ("*.1",)}, ["encoder.0.1", "encoder.1.1"]),
        ({"layers": "encoder.[0]*"}, ["encoder.0.0", "encoder.0.1"]),
        ({"layers": lambda name, module: "0.0" in name}, ["encoder.0.0"]),
        ({"layers": lambda name, module: getattr(module, "out_features", 0) == 2}, ["head"]),
        ({"kinds": "layer_norm"}, ["encoder.0.1", "encoder.1.1"]),
        ({"layers": nn.LayerNorm}, ["encoder.0.1", "encoder.1.1"]),
        ({"layers": [nn.LayerNorm, "head"]}, ["encoder.0.1", "encoder.1.1", "head"]),
        ({"layers": (name for name in ("head", "encoder.0.*"))}, ["encoder.0.0", "encoder.0.1", "head"]),
        ({"kinds": ["layer_norm", "rms_norm"], "layers": "*.0.*"}, ["encoder.0.1"]),
    ],
)
def test_filters(filters: dict[str, object], names: list[str]) -> None:
    assert list(kinds(MODEL, **filters)) == names


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (
            {"layers": "encodr.0.1"},
            r"layers='encodr.0.1' matches none of 5 layers: .*close names: encoder\.0\.1",
        ),
        ({"layers": ["haed"]}, r"layers=\['haed'\] matches none .*close names: head"),
        (
            {"layers": "zzzzzzzz"},
            "matches none of 5 layers: there are layer_norm, linear; for example 'encoder.0.0'",
        ),
        ({"layers": lambda name, module: False}, "a predicate matches none of 5 layers"),
        (
            {"kinds": "batch_norm"},
            "kinds='batch_norm' matches none of 5 layers: there are layer_norm, linear$",
        ),
        (
            {"layers": nn.GroupNorm},
            r"layers=GroupNorm matches none of 5 layers: there are layer_norm, linear \(Linear, LayerNorm\)$",
        ),
        ({"layers": [nn.GroupNorm, "haed"]}, r"layers=\[GroupNorm, 'haed'\] matches .*close names: head"),
        (
            {"layers": "head", "kinds": ["layer_norm"]},
            r"layers='head' and kinds=\['layer_norm'\] matches none",
        ),
        ({"kinds": "layernorm"}, "unknown kind 'layernorm'; choose from linear, layer_norm"),
        ({"kinds": ["linear", "convolution"]}, "unknown kind 'convolution'"),
    ],
)
def test_filters_that_match_nothing_say_what_there_is(filters: dict[str, object], message: str) -> None:
    for call in (find_layers, normprobe.Probe):
        with pytest.raises(NoLayersError, match=message):
            call(MODEL, **filters)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"kinds": 3}, "kinds must be a kind or several of linear, .*norm, conv, .*residual; got int"),
        ({"kinds": [nn.LayerNorm]}, "kinds must be .*; got LayerNorm; layers= takes classes"),
        ({"kinds": nn.LayerNorm}, "kinds must be .*; got LayerNorm; layers= takes classes"),
        ({"layers": 1}, r"layers must be a glob pattern such as 'encoder.\*', a class .*; got int"),
        ({"layers": ["head", 2]}, "layers must be .*; got int"),
        ({"layers": dict}, "layers must be .*; got dict"),
    ],
)
def test_filters_of_another_type_say_what_is_needed(filters: dict[str, object], message: str) -> None:
    for call in (find_layers, normprobe.Probe):
        with pytest.raises(normprobe.NormprobeError, match=message):
            call(MODEL, **filters)


@pytest.mark.parametrize("model", [nn.Sequential(), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.Embedding(4, 4)])
def test_a_model_without_layers_is_an_error_that_says_what_to_do(model: nn.Module) -> None:
    with pytest.raises(NoLayersError, match=r"has no Linear or .* normprobe\.register_view"):
        normprobe.Probe(model)


def test_the_error_names_what_comes_nearest_and_why_it_is_none() -> None:
    class Unnormalized(nn.Module):
        eps = 1e-5

    class LinearAttention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    weight_norm = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1))
    model = nn.ModuleDict({"conv": weight_norm, "own": Unnormalized(), "mix": LinearAttention()})
    with pytest.raises(NoLayersError) as raised:
        normprobe.Probe(model)
    assert str(raised.value) == (
        "ModuleDict has no Linear or normalization layer to probe; nearest come "
        "'conv.parametrizations.weight.0' (_WeightNorm: it normalizes weights, not what flows through), "
        "'own' (Unnormalized: it has no forward of its own), "
        "'mix' (LinearAttention: it stores no weight or scale of its own); "
        "teach normprobe a layer type of your own with normprobe.register_view"
    )
    with pytest.raises(NoLayersError, match=r"to probe among Conv2d, ReLU; teach"):
        normprobe.Probe(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))


def test_containers_hold_layers_and_the_outermost_comes_first() -> None:
    found = find_layers(MODEL, layers="encoder.0.*")
    assert found.containers == (MODEL, MODEL["encoder"], MODEL["encoder"][0])
    assert find_layers(nn.Linear(2, 2)).containers == ()


def test_finding_a_parametrized_linear_does_not_compute_its_weight() -> None:
    linear = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)).train()
    before = {name: value.clone() for name, value in linear.state_dict().items()}
    layer = find_layers(nn.Sequential(linear)).layers[0]
    assert (layer.view.kind, layer.n_features, layer.affine) == ("linear", 4, True)
    assert all(torch.equal(value, before[name]) for name, value in linear.state_dict().items())


CONVOLUTION = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize("layers", [nn.Conv2d, "0", ["0"], [nn.Conv2d]])
def test_of_a_convolution_it_is_said_that_it_is_not_measured(layers: Any) -> None:
    match = r"matches none of 2 layers: .*; '0' is a Conv2d: only Linear and norm layers are measured$"
    with pytest.raises(NoLayersError, match=match):
        find_layers(CONVOLUTION, layers)


def test_a_pattern_that_matches_nothing_while_others_do_is_noted() -> None:
    recording = normprobe.record(CONVOLUTION, [torch.randn(40, 3, 3, 3)], layers=["1", "0", "03", "3*"])
    notes = [
        "layers: '0' matches no layer; '0' is a Conv2d: only Linear and norm layers are measured",
        "layers: '03' matches no layer; close names: 3",
    ]
    assert recording.meta["warnings"] == notes
    assert all(f"Note: {note}" in str(recording.summary()) for note in notes)
    assert find_layers(MODEL, ["encoder.*", "head"]).unmatched == ()
    assert find_layers(MODEL, [nn.GroupNorm, "head"]).unmatched == ()
    # Matched, and of another kind.
    assert find_layers(MODEL, ["encoder.*", "head"], "layer_norm").unmatched == ()
    with pytest.raises(NoLayersError, match=r"no layer '0' among .*only Linear and norm layers are measured"):
        recording["0"]
