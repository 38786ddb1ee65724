"""Which of the tensors of a call a layer's input and output are: floating, and what the call changed."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import normprobe
from normprobe.capture.calls.readings import NO_INPUT

WIDTH = 16


def data(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * 2 + 0.5


def of(recording: normprobe.Recording, layer: str, site: str) -> Any:
    return recording.layers.set_index(["layer", "site"]).loc[(layer, site)]


def variance(*tensors: Tensor) -> float:
    return float(torch.cat([tensor.detach().reshape(-1).double() for tensor in tensors]).var(correction=0))


@dataclass
class Batch:
    ids: Tensor
    token_weights: Tensor
    embedding: Tensor


class NormalizeEntry(nn.Module):
    """Writes to the entry of a mapping, and gives the mapping back, a new one, or nothing."""

    def __init__(self, result: str) -> None:
        super().__init__()
        self.result = result

    def forward(self, batch: Any) -> Any:
        unit = functional.normalize(batch["embedding"], dim=-1)
        if self.result == "new":
            return {**batch, "embedding": unit}
        if self.result == "in place":
            batch["embedding"].copy_(unit)
            return batch
        batch["embedding"] = unit
        return batch if self.result == "same" else None


class Encoder(nn.Module):
    def __init__(self, norm: nn.Module, make: Callable[..., Any]) -> None:
        super().__init__()
        self.linear, self.norm, self.make = nn.Linear(WIDTH, WIDTH), norm, make
        self.read: list[Tensor] = []
        self.wrote: list[Tensor] = []

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        embedding = self.linear(x)
        self.read.append(embedding.detach().clone())
        batch = self.make(ids=ids, token_weights=torch.ones(len(ids), 5), embedding=embedding)
        found = self.norm(batch)
        found = batch if found is None else found
        unit: Tensor = found["embedding"] if not isinstance(found, Batch) else found.embedding
        self.wrote.append(unit.detach().clone())
        return unit


@pytest.mark.parametrize("make", [dict, lambda **given: UserDict(given)], ids=["dict", "another mapping"])
@pytest.mark.parametrize("result", ["same", "new", "in place", "none"])
def test_of_a_mapping_the_entry_that_the_call_changed(result: str, make: Callable[..., Any]) -> None:
    if result == "new" and make is not dict:
        pytest.skip("a mapping that is copied is a dict")
    NormalizeEntry.__name__ = "Normalize"
    model = Encoder(NormalizeEntry(result), make)
    with torch.no_grad(), normprobe.Probe(model) as probe:
        for seed in (1, 2):
            model(torch.randint(0, 30, (6, 5)), data(6, WIDTH, seed=seed))
    row = probe.recording.ledger.set_index("layer").loc["norm"]
    assert (row["kind"], row["status"], row["n_features"], row["calls"]) == ("rms_norm", "fired", WIDTH, 2)
    for site, seen in (("input", model.read), ("output", model.wrote)):
        found = of(probe.recording, "norm", site)
        assert (found["dtype"], found["n_samples"]) == ("float32", 12)
        assert found["variance"] == pytest.approx(variance(*seen), rel=1e-6)


def test_of_a_dataclass_too() -> None:
    class NormalizeField(nn.Module):
        eps = 1e-6

        def forward(self, batch: Batch) -> Batch:
            unit = functional.layer_norm(batch.embedding, (WIDTH,), eps=self.eps)
            return Batch(batch.ids, batch.token_weights, unit)

    NormalizeField.__name__ = "FieldNorm"
    model = Encoder(NormalizeField(), Batch)
    recording = normprobe.record(model, [(torch.randint(0, 30, (6, 5)), data(6, WIDTH))] * 2)
    assert recording.ledger.set_index("layer").loc["norm", "kind"] == "layer_norm"
    assert of(recording, "norm", "input")["variance"] == pytest.approx(variance(*model.read), rel=1e-6)
    assert of(recording, "norm", "output")["variance"] == pytest.approx(variance(*model.wrote), rel=1e-6)


class OwnLinear(nn.Module):
    """A Linear by its name and weight, called as it likes."""

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.weight, self.in_features = nn.Parameter(data(4, WIDTH)), WIDTH
        self.call = call

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(self.weight, *args, **kwargs)


class Calls(nn.Module):
    """Calls its layer with what it makes of its inputs."""

    def __init__(self, layer: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, *args: Any) -> Any:
        return self.call(self.layer, *args)


@pytest.mark.parametrize(
    ("own", "call"),
    [
        (lambda w, ids, x: x @ w.T, lambda layer, x: layer(torch.arange(len(x)), x)),
        (lambda w, x, mask: x @ w.T, lambda layer, x: layer(mask=torch.ones(len(x), 2) > 0, x=x)),
        (lambda w, both: both[1] @ w.T, lambda layer, x: layer((torch.zeros(len(x), 3), x))),
        (lambda w, x: {"ids": torch.arange(5), "y": x @ w.T}, lambda layer, x: layer(x)),
        (lambda w, x: (None, [x @ w.T]), lambda layer, x: layer(x)),
        (lambda w, x: (x, x @ w.T), lambda layer, x: layer(x)),
        (lambda w, d: {**d, "y": d["x"] @ w.T}, lambda layer, x: layer({"z": torch.ones(3, 2), "x": x})),
    ],
    ids=["ids first", "keywords", "a pair", "a mapping", "nested", "its input beside", "a new entry"],
)
def test_a_linear_that_takes_and_gives_containers(own: Any, call: Any) -> None:
    OwnLinear.__name__ = "ContainerLinear"
    layer, x = OwnLinear(own), data(20, WIDTH)
    recording = normprobe.record(Calls(layer, call), [x, x + 1])
    y = torch.cat([x, x + 1]) @ layer.weight.T
    found = of(recording, "layer", "input"), of(recording, "layer", "output")
    assert [int(site["n_features"]) for site in found] == [WIDTH, 4]
    assert found[0]["variance"] == pytest.approx(variance(x, x + 1), rel=1e-6)
    assert found[1]["variance"] == pytest.approx(variance(y), rel=1e-6)


def test_a_layer_without_floating_numbers_is_refused() -> None:
    class CountNorm(nn.Module):
        eps = 1e-6

        def forward(self, x: Tensor) -> Tensor:
            return x

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear = CountNorm(), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.norm(torch.arange(12).reshape(3, 4))
            return self.linear(x)

    row = normprobe.record(Net(), [data(5, 4)] * 2).ledger.set_index("layer").loc["norm"]
    assert (row["status"], row["calls"]) == ("refused", 0)
    assert NO_INPUT in row["reason"]


class Added(nn.Module):
    """Adds a residual, normalizes, and gives the sum, too; where and how, `result` says."""

    def __init__(self, result: Callable[[Tensor, Tensor], Any], *, in_place: bool = False) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.linspace(0.5, 1.5, WIDTH)), 1e-6
        self.result, self.in_place = result, in_place

    def forward(self, hidden: Tensor, residual: Tensor | None = None) -> Any:
        if residual is None:
            return functional.rms_norm(hidden, (WIDTH,), self.weight, self.eps)
        if self.in_place:
            residual.add_(hidden)
            hidden.copy_(functional.rms_norm(residual, (WIDTH,), self.weight, self.eps))
            return self.result(hidden, residual)
        total = hidden + residual
        return self.result(functional.rms_norm(total, (WIDTH,), self.weight, self.eps), total)


RESULTS = {
    "norm first": lambda y, total: (y, total),
    "sum first": lambda y, total: (total, y),
    "a mapping": lambda y, total: {"residual": total, "hidden": y},
    "a list": lambda y, total: [None, [total], y],
}


@pytest.mark.parametrize("keywords", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("result", RESULTS)
def test_of_a_sum_that_is_given_the_input_is_the_sum(result: str, in_place: bool, keywords: bool) -> None:
    norm = Added(RESULTS[result], in_place=in_place)
    Added.__name__ = "FusedAddRMSNorm"

    def call(layer: nn.Module, x: Tensor, r: Tensor) -> Any:
        x, r = x.clone(), r.clone()
        return layer(residual=r, hidden=x) if keywords else layer(x, r)

    batches = [(data(4, 6, WIDTH, seed=s), 3 * data(4, 6, WIDTH, seed=s + 9)) for s in (1, 2, 3)]
    recording = normprobe.record(Calls(norm, call), batches)
    row = recording.ledger.set_index("layer").loc["layer"]
    assert (row["kind"], row["calls"], row["normalizes"]) == ("rms_norm", 3, "input")
    totals = [x + r for x, r in batches]
    assert of(recording, "layer", "input")["variance"] == pytest.approx(variance(*totals), rel=1e-6)
    written = [functional.rms_norm(total, (WIDTH,), norm.weight, 1e-6) for total in totals]
    assert of(recording, "layer", "output")["variance"] == pytest.approx(variance(*written), rel=1e-6)


def test_calls_with_and_without_a_residual_are_told_apart() -> None:
    norm = Added(RESULTS["norm first"])

    def call(layer: nn.Module, x: Tensor, r: Tensor) -> Any:
        return layer(layer(x), r)

    batches = [(data(4, 6, WIDTH, seed=s), 3 * data(4, 6, WIDTH, seed=s + 9)) for s in (1, 2)]
    recording = normprobe.record(Calls(norm, call), batches)
    normalized = [functional.rms_norm(x, (WIDTH,), norm.weight, 1e-6) for x, _ in batches]
    read = [x for x, _ in batches] + [n + r for n, (_, r) in zip(normalized, batches, strict=True)]
    assert of(recording, "layer", "input")["variance"] == pytest.approx(variance(*read), rel=1e-6)


def test_a_residual_of_zero_at_first_is_one_later() -> None:
    norm = Added(RESULTS["norm first"])
    batches = [(data(4, 6, WIDTH, seed=s), (s - 1) * data(4, 6, WIDTH, seed=s + 9)) for s in (1, 2, 3)]
    recording = normprobe.record(Calls(norm, lambda layer, x, r: layer(x, r)), batches)
    totals = [x + r for x, r in batches]
    assert of(recording, "layer", "input")["variance"] == pytest.approx(variance(*totals), rel=1e-6)


class Gated(nn.Module):
    def __init__(self, operand: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.eps, self.operand = nn.Parameter(torch.linspace(0.5, 2, WIDTH)), 1e-6, operand

    def forward(self, hidden: Tensor, gate: Tensor) -> Tensor:
        return functional.rms_norm(self.operand(hidden, gate), (WIDTH,), self.weight, self.eps)


@pytest.mark.parametrize("keywords", [False, True])
@pytest.mark.parametrize(
    ("operand", "words"),
    [
        (lambda x, g: x * functional.silu(g), "its input times silu of {}"),
        (lambda x, g: x * torch.sigmoid(g), "its input times sigmoid of {}"),
        (lambda x, g: x + g, "the sum of its input and {}"),
    ],
    ids=["silu", "sigmoid", "sum"],
)
def test_what_the_input_site_cannot_show_is_said(operand: Any, words: str, keywords: bool) -> None:
    Gated.__name__ = "GatedRMSNorm"

    def call(layer: nn.Module, x: Tensor, g: Tensor) -> Any:
        return layer(gate=g, hidden=x) if keywords else layer(x, g)

    batches = [(data(4, 6, WIDTH, seed=s), data(4, 6, WIDTH, seed=s + 9)) for s in (1, 2)]
    recording = normprobe.record(Calls(Gated(operand), call), batches)
    row = recording.ledger.set_index("layer").loc["layer"]
    # A sum has no first of its two: it is said of the one that comes first.
    other = "its argument `gate`" if keywords else "its second argument"
    if keywords and "sum" in words:
        other = "its argument `hidden`"
    assert row["reason"] == f"what is normalized is {words.format(other)}, not its input alone"
    assert (row["kind"], row["normalizes"]) == ("rms_norm", "other")
    read = [g if keywords and "sum" in words else x for x, g in batches]
    assert of(recording, "layer", "input")["variance"] == pytest.approx(variance(*read), rel=1e-6)


def test_what_scales_a_message_is_no_input() -> None:
    class MessageNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([1.3]))

        def forward(self, x: Tensor, message: Tensor) -> Tensor:
            return functional.normalize(message, dim=-1) * x.norm(dim=-1, keepdim=True) * self.scale

    batches = [(5 * data(40, WIDTH, seed=s), data(40, WIDTH, seed=s + 9)) for s in (1, 2)]
    recording = normprobe.record(MessageNorm(), batches)
    row = recording.ledger.iloc[0]
    assert (row["status"], row["kind"]) == ("fired", "rms_norm")
    assert "the root mean square of its first argument" in row["reason"]
    assert of(recording, "", "input")["variance"] == pytest.approx(
        variance(*[m for _, m in batches]), rel=1e-6
    )


class RevIN(nn.Module):
    """Normalizes each series, and puts its scale back later."""

    def __init__(self, *, keyword: bool) -> None:
        super().__init__()
        self.eps, self.keyword = 1e-5, keyword
        self.affine_weight = nn.Parameter(torch.linspace(0.5, 2, WIDTH))

    def forward(self, x: Tensor, mode: str) -> Tensor:
        if mode == "norm":
            self.mean, self.std = x.mean(1, keepdim=True), (x.var(1, False, keepdim=True) + self.eps).sqrt()
            return (x - self.mean) / self.std * self.affine_weight
        return x / self.affine_weight * self.std + self.mean


class Forecast(nn.Module):
    def __init__(self, *, keyword: bool) -> None:
        super().__init__()
        self.revnorm, self.linear, self.keyword = RevIN(keyword=keyword), nn.Linear(WIDTH, WIDTH), keyword

    def forward(self, x: Tensor) -> Tensor:
        norm, denorm = ({"mode": m} if self.keyword else m for m in ("norm", "denorm"))
        if self.keyword:
            return self.revnorm(self.linear(self.revnorm(x, **norm)), **denorm)
        return self.revnorm(self.linear(self.revnorm(x, norm)), denorm)


@pytest.mark.parametrize("keyword", [False, True])
def test_calls_that_undo_a_norm_are_left_out_and_counted(keyword: bool) -> None:
    RevIN.__name__ = "RevINorm"
    batches = [4 * data(3, 20, WIDTH, seed=s) + 2 for s in (1, 2, 3)]
    recording = normprobe.record(Forecast(keyword=keyword), batches)
    row = recording.ledger.set_index("layer").loc["revnorm"]
    assert (row["kind"], row["sample_unit"], row["calls"]) == ("instance_norm", "example", 3)
    word = "mode='denorm'" if keyword else "'denorm'"
    left_out = f"a call with {word} does not normalize as its others do and is left out (3 times)"
    assert left_out in row["reason"]
    assert of(recording, "revnorm", "input")["variance"] == pytest.approx(variance(*batches), rel=1e-6)
