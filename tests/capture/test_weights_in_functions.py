"""A layer whose module is not called: measured by the function that uses its weight, or bypassed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import normprobe


class Stem(nn.Module):
    """Uses the weight of `proj`, (6, 8), by a function given at construction; x is (batch, time, 8)."""

    def __init__(self, use: Callable[[Tensor, nn.Linear], Tensor]) -> None:
        super().__init__()
        self.stem, self.proj, self.use = nn.Linear(8, 8), nn.Linear(8, 6), use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.stem(x), self.proj)


PRODUCTS: dict[str, Callable[[Tensor, nn.Linear], Tensor]] = {
    "from the left": lambda x, proj: (proj.weight @ x.mT).mT,
    "matmul from the left": lambda x, proj: torch.matmul(proj.weight, x.mT).mT,
    "flat from the left": lambda x, proj: (proj.weight @ x.flatten(0, 1).t()).t().unflatten(0, x.shape[:2]),
    "in a batch of products": lambda x, proj: torch.bmm(proj.weight.expand(len(x), -1, -1), x.mT).mT,
    "of one more axis": lambda x, proj: (proj.weight[None] @ x.mT).mT,
    "transposed": lambda x, proj: torch.matmul(x, proj.weight.T),
    "inner": lambda x, proj: torch.inner(x, proj.weight),
    "einsum": lambda x, proj: torch.einsum("bti,oi->bto", x, proj.weight),
    "einsum, weight first": lambda x, proj: torch.einsum("oi, bti -> bto", proj.weight, x),
    "einsum, moved": lambda x, proj: torch.einsum("oi,bti->bot", proj.weight, x).mT,
    "einsum, ellipsis": lambda x, proj: torch.einsum("...i,oi->...o", x, proj.weight),
    "data": lambda x, proj: functional.linear(x, proj.weight.data),
    "cast": lambda x, proj: (proj.weight.double() @ x.double().mT).mT.float(),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_with_the_weight_is_the_layer(name: str) -> None:
    torch.manual_seed(0)
    model, x = Stem(PRODUCTS[name]), torch.randn(3, 5, 8)
    with torch.no_grad():
        expected, h = model(x), model.stem(x)
        with normprobe.Probe(model) as probe:
            assert all(torch.equal(model(x), expected) for _ in range(3))
    recording = probe.recording
    row = recording.ledger.set_index("layer").loc["proj"]
    assert (row.status, row.via, row.calls, row.aligned) == ("fired", "functional", 3, True)
    assert row.reason == "its bias was added apart from it, so its output is without"
    product = functional.linear(h, model.proj.weight)
    for site, tensor in (("input", h), ("output", product)):
        features = recording.features[
            (recording.features.layer == "proj") & (recording.features.site == site)
        ]
        values = tensor.detach().double().flatten(0, 1)
        assert features["mean"].to_numpy() == pytest.approx(values.mean(0).numpy(), rel=1e-5, abs=1e-6)
        assert features["variance"].to_numpy() == pytest.approx(values.var(0, correction=0).numpy(), rel=1e-5)
        samples = recording.samples[(recording.samples.layer == "proj") & (recording.samples.site == site)]
        first = samples.query("call == 0 and example == 1 and position == 2")
        assert first["mean"].item() == pytest.approx(tensor[1, 2].mean().item(), rel=1e-5, abs=1e-6)


def test_padding_is_left_out_of_a_product_from_the_left() -> None:
    class Masked(Stem):
        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            return super().forward(x)

    torch.manual_seed(0)
    model, mask = Masked(PRODUCTS["from the left"]), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    with torch.no_grad(), normprobe.Probe(model) as probe:
        model(torch.randn(2, 5, 8), mask)
    rows = probe.recording.layers.query("layer == 'proj'")
    assert rows[["n_samples", "masked"]].values.tolist() == [[7, 3], [7, 3]]


READS: dict[str, tuple[Callable[[Tensor, nn.Linear], Tensor], str]] = {
    "convolution": (lambda x, proj: functional.conv1d(x.mT, proj.weight[..., None]).mT, "__getitem__"),
    "sum of products": (lambda x, proj: (x[..., None, :] * proj.weight).sum(-1), "mul"),
    "changed copy": (lambda x, proj: functional.linear(x, proj.weight + 1), "add"),
    "product of weights": (lambda x, proj: x + (proj.weight @ torch.eye(8)).sum(), "matmul"),
    "tensordot": (lambda x, proj: torch.tensordot(x, proj.weight, dims=([-1], [1])), "tensordot"),
}


@pytest.mark.parametrize("name", READS)
def test_a_weight_used_in_another_way_is_bypassed_by_the_function_that_read_it(name: str) -> None:
    use, function = READS[name]
    row = _row_of_proj(use)
    assert row.status == "bypassed"
    assert f"its weight was read ({function}) without a call of its module" in row.reason


@pytest.mark.parametrize(
    "use",
    [
        lambda x, proj: x,
        lambda x, proj: x[..., : proj.weight.shape[0]].to(proj.weight.dtype),
        lambda x, proj: x + torch.zeros_like(proj.weight).sum() + proj.weight.new_zeros(1),
    ],
    ids=["unused", "its sizes and dtype", "zeros like it"],
)
def test_a_layer_whose_numbers_are_not_read_never_fired(use: Callable[[Tensor, nn.Linear], Tensor]) -> None:
    row = _row_of_proj(use)
    assert row.status == "never fired"
    assert row.reason == "its module was never called, though the one that holds it was"


def _row_of_proj(use: Callable[[Tensor, nn.Linear], Tensor]) -> Any:
    with torch.no_grad(), normprobe.Probe(Stem(use)) as probe:
        probe.model(torch.randn(3, 5, 8))
    return probe.recording.ledger.set_index("layer").loc["proj"]


def test_a_tied_table_is_no_use_of_the_linear_that_shares_it() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.norm, self.head = nn.Embedding(9, 8), nn.LayerNorm(8), nn.Linear(8, 9)
            self.head.weight = self.table.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.norm(self.table(ids))

    with torch.no_grad(), normprobe.Probe(Language()) as probe:
        probe.model(torch.arange(9).reshape(3, 3))
    assert probe.recording.ledger.set_index("layer").loc["head", "status"] == "never fired"


class OwnRMSNorm(nn.Module):
    def __init__(self, width: int, *, scaled: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        normalized = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return normalized if self.weight is None else self.weight * normalized


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        return x * weight


def _fused(x: Tensor, weight: Tensor) -> Tensor:
    return torch.addcmul(torch.zeros_like(x), x, weight)


PAST_THE_CALL: dict[str, tuple[Callable[[OwnRMSNorm, Tensor], Tensor], bool]] = {
    "forward": (lambda norm, x: norm.forward(x), True),
    "forward of the class": (lambda norm, x: type(norm).forward(norm, x), True),
    "fused function": (lambda norm, x: _fused(x, norm.weight), True),
    "autograd function": (lambda norm, x: Scale.apply(x, norm.weight), True),
    "forward without a weight": (lambda norm, x: norm.forward(x), False),
    "forward of the class, without a weight": (lambda norm, x: type(norm).forward(norm, x), False),
}


@pytest.mark.parametrize("name", PAST_THE_CALL)
def test_a_norm_past_its_call_is_bypassed_and_an_unused_one_never_fired(name: str) -> None:
    run, scaled = PAST_THE_CALL[name]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.called = (OwnRMSNorm(8, scaled=scaled) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.called(run(self.used, x))

    with torch.no_grad(), normprobe.Probe(Net()) as probe:
        for _ in range(2):
            probe.model(torch.randn(3, 5, 8))
    ledger = probe.recording.ledger.set_index("layer")
    assert ledger["status"].to_dict() == {"used": "bypassed", "unused": "never fired", "called": "fired"}
    said = "its weight was read" if scaled else "its `forward` ran"
    assert ledger.loc["used", "reason"].startswith(said)


def test_torchs_norms_past_their_call_are_measured_where_they_store_something() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain, self.bare = nn.LayerNorm(8), nn.LayerNorm(8, elementwise_affine=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.bare.forward(nn.LayerNorm.forward(self.plain, x))

    with torch.no_grad(), normprobe.Probe(Net()) as probe:
        probe.model(torch.randn(3, 8))
    assert probe.recording.ledger["status"].tolist() == ["fired", "bypassed"]


def test_only_experts_are_called_experts() -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear_stack = nn.Parameter(torch.randn(2, 8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.linear_stack[0]

    class LinearStack(Stack):
        """Named so that its tensor of three axes may be Linears."""

    class ExpertStack(Stack):
        pass

    def reason(module: nn.Module) -> str:
        with torch.no_grad(), normprobe.Probe(nn.Sequential(nn.LayerNorm(8), module)) as probe:
            probe.model(torch.randn(3, 8))
        return str(probe.recording.ledger["reason"].iloc[1])

    assert "holds several matrices; their products" in reason(LinearStack())
    assert "holds the weights of all experts; their products" in reason(ExpertStack())
