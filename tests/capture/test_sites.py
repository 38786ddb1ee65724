"""A third site, registered in public: its numbers are in every table, in files, merges and comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe import vocabulary
from normprobe.capture.states import site_registry
from normprobe.errors import NoSamplesError, ViewError
from normprobe.formatting import format_number
from tests.helpers.oracle import two_pass, worst

SITES = ["input", "output", "gate"]


class GatedNorm(nn.Module):
    """An RMS norm whose output a second tensor scales."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(features) + 0.5)
        self.eps = 1e-6

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        normalized = x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return normalized * self.weight * torch.sigmoid(gate)


class Block(nn.Module):
    def __init__(self, features: int = 12, wide: int = 20) -> None:
        super().__init__()
        self.up = nn.Linear(features, wide)
        self.gate = nn.Linear(features, wide)
        self.norm = GatedNorm(wide)
        self.down = nn.Linear(wide, features)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.down(self.norm(self.up(hidden), self.gate(hidden)))


def gate_of(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Tensor:
    return args[1]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A registry and a vocabulary whose changes end with the test."""
    monkeypatch.setattr(site_registry, "_REGISTRY", {})
    monkeypatch.setattr(vocabulary, "_SITES", dict(vocabulary._SITES))
    return


@pytest.fixture
def gate(registry: None) -> None:
    normprobe.register_site("gate", GatedNorm, tensor=gate_of, label="gate", colour=("#1f7a4d", "#5ec795"))


def model_and_batches(seed: int = 0) -> tuple[nn.Module, list[dict[str, Tensor]]]:
    torch.manual_seed(seed)
    mask = torch.ones(3, 5, dtype=torch.long)
    mask[1, 3:] = 0
    hidden = [torch.randn(3, 5, 12) * 3 + 1 for _ in range(6)]
    return Block(), [{"hidden": h, "attention_mask": mask} for h in hidden]


def gates_of(model: nn.Module, batches: list[dict[str, Tensor]]) -> np.ndarray:
    """Every real row of the gate, float64, in the order of the data."""
    with torch.no_grad():
        rows = [model.gate(b["hidden"])[b["attention_mask"].bool()] for b in batches]
    return torch.cat(rows).to(torch.float64).numpy()


def hold(recording: normprobe.Recording, truth: np.ndarray) -> None:
    """Everything that the tables say of the gate."""
    layers = recording.layers.set_index(["layer", "site"])
    assert [site for layer, site in layers.index if layer == "norm"] == SITES
    row = layers.loc["norm", "gate"]
    assert (row["n_samples"], row["n_features"]) == truth.shape
    assert row["masked"] == layers.loc[("norm", "input"), "masked"] > 0
    whole = two_pass(truth.reshape(-1, 1))
    assert worst([row["mean"]], [row["variance"]], whole["mean"], whole["variance"]) < 1e-6
    assert (row["min"], row["max"]) == (truth.min(), truth.max())
    features = recording.features.query("layer == 'norm' and site == 'gate'")
    oracle = two_pass(truth)
    assert worst(features["mean"], features["variance"], oracle["mean"], oracle["variance"]) < 1e-6
    assert features["weight"].isna().all()
    samples = recording.samples.query("layer == 'norm' and site == 'gate'")
    of_samples, key = two_pass(truth, axis=1), ["call", "example", "position"]
    ordered = samples.sort_values(key)
    assert worst(ordered["mean"], ordered["variance"], of_samples["mean"], of_samples["variance"]) < 1e-6
    twins = recording.samples.query("layer == 'norm' and site == 'output'")
    pd.testing.assert_frame_equal(
        samples[key].reset_index(drop=True), twins[key].reset_index(drop=True)
    )  # the same samples, in one order
    values = recording.values("norm", "gate")
    present = {values_of.tobytes() for values_of in truth}
    assert len(values)
    assert all(values_of.tobytes() in present for values_of in values)


@pytest.mark.usefixtures("gate")
def test_tables_hold_the_third_site() -> None:
    model, batches = model_and_batches()
    hold(normprobe.record(model, batches, samples="all"), gates_of(model, batches))


def test_the_ledger_and_the_other_sites_are_as_without_it(registry: None) -> None:
    model, batches = model_and_batches()
    without = normprobe.record(model, batches, part="a")
    normprobe.register_site("gate", GatedNorm, tensor=gate_of)
    recording = normprobe.record(model, batches, part="a")
    pd.testing.assert_frame_equal(recording.ledger, without.ledger)
    for table in ("layers", "features", "samples"):
        own = getattr(recording, table)
        others = own[own["site"] != "gate"].reset_index(drop=True)
        assert len(own) > len(others)
        pd.testing.assert_frame_equal(others, getattr(without, table))


@pytest.mark.usefixtures("gate")
def test_outputs_are_those_of_the_bare_model() -> None:
    model, batches = model_and_batches()
    bare = [model(**batch) for batch in batches]
    with normprobe.Probe(model):
        probed = [model(**batch) for batch in batches]
    assert all(torch.equal(a, b) for a, b in zip(bare, probed, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.usefixtures("gate")
def test_files_merges_and_csv(tmp_path: Path) -> None:
    model, batches = model_and_batches()
    halves = [normprobe.record(model, batches[at : at + 3], samples="all") for at in (0, 3)]
    merged = normprobe.merge(*halves)
    row = merged.layers.set_index(["layer", "site"]).loc["norm", "gate"]
    whole = two_pass(gates_of(model, batches).reshape(-1, 1))
    assert worst([row["mean"]], [row["variance"]], whole["mean"], whole["variance"]) < 1e-6
    assert merged.layers.query("layer == 'norm'")["site"].tolist() == SITES
    recording = normprobe.record(model, batches, samples="all")
    recording.to_csv(tmp_path / "csv")
    for name in ("layers", "features", "samples"):
        table = pd.read_csv(tmp_path / "csv" / f"{name}.csv", keep_default_na=False)
        assert (table["site"] == "gate").sum() == (getattr(recording, name)["site"] == "gate").sum() > 0
    recording.save(tmp_path / "run.normprobe")
    hold(normprobe.load(tmp_path / "run.normprobe"), gates_of(model, batches))


@pytest.mark.usefixtures("gate")
def test_the_report_shows_it(tmp_path: Path) -> None:
    model, batches = model_and_batches()
    recording = normprobe.record(model, batches)
    variance = recording.layers.set_index(["layer", "site"]).loc[("norm", "gate"), "variance"]
    page = recording.report(tmp_path / "report").read_text("utf-8")
    row = next(row for row in page.split("<tr") if 'id="layer-' in row and ">norm<" in row)
    assert format_number(variance) in row
    assert f"--site-{vocabulary.site_of('gate').number}" in page


def test_a_file_loads_where_its_site_is_not_registered(
    registry: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, batches = model_and_batches()
    with monkeypatch.context() as patch:
        patch.setattr(vocabulary, "_SITES", dict(vocabulary._SITES))
        normprobe.register_site("gate", GatedNorm, tensor=gate_of)
        normprobe.record(model, batches, samples="all").save(tmp_path / "run.normprobe")
    assert "gate" not in [site.name for site in vocabulary.sites()]
    hold(normprobe.load(tmp_path / "run.normprobe"), gates_of(model, batches))


@pytest.mark.usefixtures("gate")
def test_comparisons_have_its_rows() -> None:
    (model, batches), other = model_and_batches(), model_and_batches(1)[0]
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.gate.bias.add_(0.5)
    pair = [normprobe.record(m, batches, samples="all") for m in (model, other)]
    layers = normprobe.compare(*pair).layers.set_index(["layer", "site"])
    assert [site for layer, site in layers.index if layer == "norm"] == SITES
    moved = layers["error_db"] > -np.inf
    assert moved[[("gate", "output"), ("norm", "gate"), ("norm", "output")]].all()
    assert not moved[[("gate", "input"), ("norm", "input")]].any()


@pytest.mark.usefixtures("gate")
def test_running_models_are_compared_there() -> None:
    (model, batches), other = model_and_batches(), model_and_batches(1)[0]
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.gate.bias.add_(0.5)
    layers = normprobe.compare_live(model, other, batches).layers.set_index(["layer", "site"])
    gates = [gates_of(m, batches) for m in (model, other)]
    error = 10 * np.log10(np.square(gates[1] - gates[0]).sum() / np.square(gates[0]).sum())
    assert layers.loc[("norm", "gate"), "error_db"] == pytest.approx(error, rel=1e-6)
    assert layers.loc[("norm", "gate"), "pairs"] == len(gates[0])


@pytest.mark.usefixtures("gate")
def test_values_names_the_sites_there_are() -> None:
    model, batches = model_and_batches()
    recording = normprobe.record(model, batches)
    with pytest.raises(NoSamplesError, match=r"site 'state' is unknown; ask for .*'gate'"):
        recording.values("norm", "state")


@pytest.mark.usefixtures("registry")
def test_subclasses_and_the_nearest_class() -> None:
    class Nearer(GatedNorm):
        pass

    normprobe.register_site("gate", GatedNorm, tensor=gate_of)
    normprobe.register_site("gate", Nearer, tensor=lambda module, args, kwargs, output: args[1] * 2)
    normprobe.register_site("scaled", Nearer, tensor=lambda module, args, kwargs, output: output * 2)
    model, batches = model_and_batches()
    model.norm.__class__ = Nearer
    layers = normprobe.record(model, batches).layers.set_index(["layer", "site"])
    assert [site for layer, site in layers.index if layer == "norm"] == [*SITES, "scaled"]
    assert layers.loc[("norm", "gate"), "mean"] == pytest.approx(
        2 * gates_of(model, batches).mean(), rel=1e-6
    )
    assert layers.loc[("norm", "scaled"), "mean"] == pytest.approx(2 * layers.loc[("norm", "output"), "mean"])


@pytest.mark.usefixtures("registry")
def test_sites_of_linears_and_of_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 4 * 4, 5)).eval()
    for cls in (nn.Linear, nn.BatchNorm2d):
        normprobe.register_site("twice", cls, tensor=lambda module, args, kwargs, output: 2 * output)
    images = torch.randn(4, 3, 6, 6)
    layers = normprobe.record(model, images).layers.set_index(["layer", "site"])
    for layer in ("1", "3"):
        for column, factor in (("mean", 2), ("variance", 4), ("n_samples", 1), ("n_features", 1)):
            assert layers.loc[(layer, "twice"), column] == pytest.approx(
                factor * layers.loc[(layer, "output"), column], rel=1e-6
            )


def _fails(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Tensor:
    return args[7]


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (_fails, "a call at its gate is left out: IndexError: tuple index out of range (6 times)"),
        (
            lambda module, args, kwargs, output: args,
            "a call at its gate is left out: TypeError: its function gave tuple, no tensor (6 times)",
        ),
        (
            lambda module, args, kwargs, output: args[1].sum(),
            "a call at its gate is left out: ViewError: a tensor of shape () has no feature axis -1 "
            "(1 wanted) (6 times)",
        ),
        (
            lambda module, args, kwargs, output: args[1] + 0j,
            "a call on complex numbers, which have no order, is left out (6 times)",
        ),
        (lambda module, args, kwargs, output: None, ""),
    ],
    ids=["raises", "no tensor", "no features", "complex", "none"],
)
def test_what_cannot_be_measured_is_said_and_reaches_no_one(tensor: Any, reason: str) -> None:
    normprobe.register_site("gate", GatedNorm, tensor=tensor)
    model, batches = model_and_batches()
    recording = normprobe.record(model, batches)
    ledger = recording.ledger.set_index("layer").loc["norm"]
    assert (ledger["status"], ledger["calls"], ledger["reason"]) == ("fired", 6, reason)
    assert recording.layers.query("layer == 'norm'")["site"].tolist() == SITES[:2]


@pytest.mark.usefixtures("registry")
def test_another_number_of_features_is_left_out() -> None:
    widths = iter([20, 20, 7, 20, 20, 20])
    normprobe.register_site(
        "gate", GatedNorm, tensor=lambda module, args, kwargs, output: args[1][..., : next(widths)]
    )
    model, batches = model_and_batches()
    recording = normprobe.record(model, batches)
    assert recording.layers.set_index(["layer", "site"]).loc[("norm", "gate"), "calls"] == 5
    assert "7 features instead of 20 at its gate" in recording.ledger.set_index("layer").loc["norm", "reason"]


@pytest.mark.usefixtures("registry")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_and_layers_that_turn_out_refused() -> None:
    class Halves(nn.Module):
        """Called a norm, and none."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(12))

        def forward(self, x: Tensor) -> Tensor:
            return x[..., :6]

    Halves.__name__ = "HalfNorm"
    for cls in (Halves, nn.LayerNorm):
        normprobe.register_site("twice", cls, tensor=lambda module, args, kwargs, output: output)
    parts = [torch.randn(n, 12) for n in (2, 5)]
    model = nn.Sequential(nn.LayerNorm(12))
    layers = normprobe.record(model, [torch.nested.nested_tensor(parts)]).layers.set_index("site")
    assert layers.loc["twice", "n_samples"] == layers.loc["output", "n_samples"] == 7
    assert layers.loc["twice", "variance"] == layers.loc["output", "variance"]
    model = nn.Sequential(nn.Linear(12, 12), Halves())
    recording = normprobe.record(model, [torch.randn(4, 12)] * 3)
    assert recording.ledger["status"].tolist() == ["fired", "refused"]
    assert set(recording.layers["layer"]) == {"0"}


@pytest.mark.usefixtures("registry")
def test_a_layer_that_a_function_computes_says_so() -> None:
    class Router(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.gate.weight, self.gate.bias)

    normprobe.register_site("twice", nn.Linear, tensor=lambda module, args, kwargs, output: 2 * output)
    recording = normprobe.record(Router(), [torch.randn(4, 12)] * 2)
    assert recording.layers["site"].tolist() == SITES[:2]
    assert "at its twice is left out: a function used its weight" in recording.ledger["reason"][0]


@pytest.mark.usefixtures("registry")
def test_layers_without_further_sites_keep_their_fast_hooks() -> None:
    """And nothing is different for them: the same numbers, the same plans ahead."""
    normprobe.register_site("gate", GatedNorm, tensor=gate_of)
    model, batches = model_and_batches()
    model.eval()
    probe = normprobe.Probe(model)
    with probe, torch.no_grad():
        for _ in range(12):
            model(**{**batches[0], "attention_mask": None})
        kinds = {
            name: type(getattr(h, "call", h)).__name__
            for name, m in model.named_modules()
            for h in m._forward_hooks.values()
        }
    plain = {kinds[name] for name in ("up", "gate", "down")}
    assert kinds["norm"] == "partial"
    assert plain in ({"LayerHook"}, {"partial"})
    calls = probe.recording.layers.set_index(["layer", "site"])["calls"]
    assert set(calls) == {12}


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("name", "cls", "options", "words"),
    [
        ("gate", int, {}, "register_site needs a subclass of torch.nn.Module, got <class 'int'>"),
        ("input", GatedNorm, {}, "site 'input' of GatedNorm is one that every layer has"),
        ("output", GatedNorm, {}, "site 'output' of GatedNorm is one that every layer has"),
        ("two words", GatedNorm, {}, "site 'two words' of GatedNorm is no identifier"),
        (3, GatedNorm, {}, "site 3 of GatedNorm is no identifier"),
        ("gate", GatedNorm, {"tensor": 1}, "tensor 1 of GatedNorm is no function"),
        ("gate", GatedNorm, {"label": ""}, "label '' of GatedNorm is no text"),
        ("gate", GatedNorm, {"colour": "#112233"}, "colour '#112233' of GatedNorm is no pair"),
        ("gate", GatedNorm, {"colour": ("red", "blue")}, "is no pair"),
    ],
)
def test_what_is_declared_wrongly_is_refused(name: Any, cls: Any, options: Any, words: str) -> None:
    with pytest.raises(ViewError, match=words):
        normprobe.register_site(name, cls, **{"tensor": gate_of, **options})
    assert site_registry._REGISTRY == {}
    assert "gate" not in [site.name for site in vocabulary.sites()]
