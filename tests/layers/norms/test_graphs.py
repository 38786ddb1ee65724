"""Norms over graphs: a sample is a graph, given by a vector among the arguments, or all rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normprobe

WIDTH = 6
SIZES = (20, 5, 12)


def nodes(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(SIZES), WIDTH, generator=generator)
    return x * torch.tensor([5.0, 1.0, 2.0]).repeat_interleave(torch.tensor(SIZES))[:, None] + 1


def graph_of_each(*, mixed: bool) -> Tensor:
    index = torch.arange(3).repeat_interleave(torch.tensor(SIZES))
    return index[torch.randperm(len(index), generator=torch.Generator().manual_seed(0))] if mixed else index


def means(x: Tensor, index: Tensor) -> Tensor:
    """The mean over the rows of its graph, for each row."""
    count = torch.bincount(index)[:, None]
    return (torch.zeros(len(count), x.shape[1]).index_add_(0, index, x) / count)[index]


class OverGraphs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.linspace(0.5, 2, WIDTH)), nn.Parameter(torch.ones(WIDTH))
        self.eps = 1e-5

    def forward(self, x: Tensor, batch: Tensor | None = None) -> Tensor:
        batch = torch.zeros(len(x), dtype=torch.long) if batch is None else batch
        return self.normalized(x, batch) * self.weight + self.bias


class LayerNorm(OverGraphs):
    """Of all numbers of a graph."""

    def normalized(self, x: Tensor, batch: Tensor) -> Tensor:
        d = x - means(x, batch).mean(1, keepdim=True)
        return d / (means(d.square(), batch).mean(1, keepdim=True) + self.eps).sqrt()


class GraphNorm(OverGraphs):
    """Of each feature of a graph; it subtracts a part of the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.mean_scale = nn.Parameter(torch.linspace(0.6, 1.2, WIDTH))

    def normalized(self, x: Tensor, batch: Tensor) -> Tensor:
        d = x - means(x, batch) * self.mean_scale
        return d / (means(d.square(), batch) + self.eps).sqrt()


class PairNorm(nn.Module):
    """Each feature centred, all divided by one number."""

    def forward(self, x: Tensor, batch: Tensor | None = None) -> Tensor:
        batch = torch.zeros(len(x), dtype=torch.long) if batch is None else batch
        d = x - means(x, batch)
        return d / (1e-5 + means(d.square().sum(1, keepdim=True), batch)).sqrt()


class InstanceNorm(nn.modules.instancenorm._InstanceNorm):
    """Torch's base of them, for nodes."""

    def __init__(self) -> None:
        super().__init__(WIDTH, 1e-5, 0.1, False, False)

    def forward(self, x: Tensor, batch: Tensor | None = None) -> Tensor:
        batch = torch.zeros(len(x), dtype=torch.long) if batch is None else batch
        d = x - means(x, batch)
        return d / (means(d.square(), batch) + self.eps).sqrt()


class Net(nn.Module):
    def __init__(self, norm: nn.Module, *, keyword: bool = False) -> None:
        super().__init__()
        self.linear, self.norm, self.keyword = nn.Linear(WIDTH, WIDTH), norm, keyword

    def forward(self, x: Tensor, batch: Tensor | None = None) -> Tensor:
        x = self.linear(x)
        return self.norm(x, batch=batch) if self.keyword else self.norm(x, batch)


NORMS: list[tuple[type[nn.Module], str]] = [
    (LayerNorm, "group_norm"),
    (GraphNorm, "instance_norm"),
    (PairNorm, "norm"),
    (InstanceNorm, "instance_norm"),
]


@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("cls", "kind"), NORMS)
def test_a_sample_is_a_graph(cls: Any, kind: str, mixed: bool, keyword: bool) -> None:
    torch.manual_seed(0)
    model, index = Net(cls(), keyword=keyword), graph_of_each(mixed=mixed)
    batches = [(nodes(1), index), (nodes(2), index)]
    recording = normprobe.record(model, batches, samples="all")
    row = recording.ledger.set_index("layer").loc["norm"]
    assert (row["kind"], row["sample_unit"], row["normalizes"]) == (kind, "example", "input")
    assert "samples of one graph" in row["reason"]
    for site, of in (("input", model.linear), ("output", lambda x: model.norm(model.linear(x), index))):
        seen = [of(x).detach().double() for x, _ in batches]
        found = recording.layers.set_index(["layer", "site"]).loc[("norm", site)]
        assert found["n_samples"] == 6
        assert found["variance"] == pytest.approx(float(torch.cat(seen).var(correction=0)), rel=1e-6)
        kept = recording.samples.query(f"layer == 'norm' and site == '{site}'").sort_values("example")
        expected = [float(x[index == graph].var(correction=0)) for x in seen for graph in range(3)]
        assert kept["variance"].tolist() == pytest.approx(expected, rel=1e-5)
        assert kept["example"].tolist() == list(range(6))
        features = recording.features.query(f"layer == 'norm' and site == '{site}'")
        assert features["variance"].tolist() == pytest.approx(
            torch.cat(seen).var(0, correction=0).tolist(), rel=1e-5
        )


@pytest.mark.parametrize(("cls", "kind"), NORMS)
def test_without_a_vector_all_rows_are_one_graph(cls: Any, kind: str) -> None:
    model = Net(cls())
    recording = normprobe.record(model, [nodes(1), nodes(2), nodes(3)])
    row = recording.ledger.set_index("layer").loc["norm"]
    assert (row["kind"], row["sample_unit"]) == (kind, "example")
    assert recording.layers.query("layer == 'norm'")["n_samples"].tolist() == [3, 3]


def test_of_a_graph_the_variance_after_the_norm_is_one() -> None:
    norm = LayerNorm()
    with torch.no_grad():
        norm.weight.fill_(1.0)
    recording = normprobe.record(norm, [(nodes(1), graph_of_each(mixed=True))])
    after = recording.samples.query("site == 'output'")["variance"]
    assert after.tolist() == pytest.approx([1.0] * 3, rel=1e-4)
    values = recording.values("", "output")
    assert values.shape == (3, WIDTH)


@pytest.mark.parametrize("rows", [6, 60])
def test_what_is_read_by_its_class_alone_says_so(rows: int) -> None:
    class CentringNorm(nn.Module):
        eps = 1e-5

        def forward(self, x: Tensor, batch: Tensor | None = None) -> Tensor:
            return x - x.mean(0)

    recording = normprobe.record(CentringNorm(), [torch.randn(rows, WIDTH) * 2 + 1])
    row = recording.ledger.iloc[0]
    assert row["kind"] == "norm"
    assert "read as its class says" in row["reason"]
