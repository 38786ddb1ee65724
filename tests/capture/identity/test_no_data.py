"""Calls on what is no data of the forward are left out and counted; what only looks like it stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.capture.hooks import callers
from normprobe.capture.identity.no_data import LEFT_OUT

WIDTH = 24


def data(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Scaled(nn.Module):
    """Low rank beside a weight, scaled by the norm of both, for which it is called on an identity matrix."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.base, self.down = nn.Linear(WIDTH, 8, bias=False), nn.Linear(WIDTH, 2, bias=False)
        self.up, self.first = nn.Linear(2, 8, bias=False), first

    def length(self) -> Tensor:
        return (self.base.weight + self.up(self.down(torch.eye(WIDTH))).T).norm(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            length = self.length()
            return (self.base(x) + self.up(self.down(x))) / length
        y = self.base(x) + self.up(self.down(x))
        return y / self.length()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("shape", [(8, WIDTH), (200, WIDTH), (3, 5, WIDTH), (1, 7, WIDTH), (1, WIDTH)])
def test_an_identity_matrix(shape: tuple[int, ...], first: bool) -> None:
    torch.manual_seed(0)
    model, batches = Scaled(first=first), [data(*shape, seed=seed) for seed in (1, 2, 3)]
    recording = normprobe.record(nn.Sequential(model), batches)
    sites = recording.layers.set_index(["layer", "site"])
    rows = torch.cat([x.reshape(-1, WIDTH) for x in batches]).double()
    for layer, site, seen in (
        ("0.down", "input", rows),
        ("0.down", "output", rows @ model.down.weight.T.double()),
        ("0.up", "output", rows @ model.down.weight.T.double() @ model.up.weight.T.double()),
    ):
        found = sites.loc[(layer, site)]
        assert (found["n_samples"], found["calls"]) == (len(rows), 3)
        assert found["variance"] == pytest.approx(float(seen.detach().var(correction=0)), rel=1e-5)
    ledger = recording.ledger.set_index("layer")
    said = f"{LEFT_OUT.format((WIDTH,))} (3 times)"
    # The whole, which is an adapted Linear, is called on the data alone.
    assert ledger["reason"].to_dict() == {"0": "", "0.base": "", "0.down": said, "0.up": said}
    assert ledger["aligned"].all()


class Reads(nn.Module):
    """Calls one Linear on several things that it makes of its inputs."""

    def __init__(self, make: Callable[..., Any]) -> None:
        super().__init__()
        self.linear, self.make = nn.Linear(WIDTH, 4), make

    def forward(self, *args: Tensor) -> list[Tensor]:
        return [self.linear(part) for part in self.make(*args)]


@pytest.mark.parametrize(
    ("make", "batch", "rows"),
    [
        (lambda x: [x.flatten(0, 1)[at::3] for at in range(3)], (data(5, 7, WIDTH),), 35),
        (lambda x: x.flatten(0, 1).reshape(20, 9, WIDTH).unbind(1), (data(5, 36, WIDTH),), 180),
        (lambda x: [x, x[:4], x[:2]], (data(5, WIDTH),), 11),
        (lambda x, y: [x, y], (data(5, 3, WIDTH), data(7, 2, WIDTH)), 29),
        (lambda x, y: [x, y], (data(5, 3, WIDTH), data(15, 2, WIDTH)), 45),
        (lambda x, e: [x, x[e[0]]], (data(5, WIDTH), torch.randint(0, 5, (2, 31))), 36),
        (lambda x: [x[0]], (data(1, 7, WIDTH),), 7),
        (lambda x: [torch.eye(WIDTH)], (data(5, WIDTH),), WIDTH),
        (lambda x: [x, x.transpose(0, 1)], (data(5, 7, WIDTH),), 70),
    ],
    ids=[
        "experts",
        "windows",
        "a batch that shrinks",
        "another argument",
        "several each",
        "edges of a graph",
        "one example",
        "nothing else",
        "time first",
    ],
)
def test_what_stays(make: Callable[..., Any], batch: tuple[Tensor, ...], rows: int) -> None:
    recording = normprobe.record(Reads(make), [batch, batch])
    found = recording.layers.query("site == 'input'").iloc[0]
    assert found["n_samples"] == 2 * rows
    assert "no data" not in recording.ledger["reason"].item()


def test_a_table_beside_data() -> None:
    table, x = data(40, WIDTH, seed=5) * 100, data(6, 3, WIDTH)
    recording = normprobe.record(Reads(lambda x: [table, x, table[None, :1]]), [x, x + 1])
    found = recording.layers.query("site == 'input'").iloc[0]
    expected = torch.cat([x, x + 1]).double().var(correction=0)
    assert found["n_samples"] == 36
    assert found["variance"] == pytest.approx(float(expected), rel=1e-6)
    assert f"{LEFT_OUT.format((40,))} (2 times)" in recording.ledger["reason"].item()


def _forward_metadata_inference(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def test_a_forward_of_those_who_make_them_on_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file stands for that of torch's pipeline stages, whose function has the same name."""
    why = callers._NO_DATA["torch.distributed.pipelining.stage"]["_forward_metadata_inference"]
    monkeypatch.setattr(callers, "_NO_DATA", {__name__: {"_forward_metadata_inference": why}})
    model = nn.Sequential(nn.Linear(WIDTH, 4))
    x = data(5, WIDTH)
    with torch.no_grad(), normprobe.Probe(model) as probe:
        _forward_metadata_inference(model, torch.full((5, WIDTH), 1e20))
        model(x)
    recording = probe.recording
    found = recording.layers.query("site == 'input'").iloc[0]
    assert found["variance"] == pytest.approx(float(x.double().var(correction=0)), rel=1e-6)
    assert (found["calls"], recording.meta["measured"]) == (1, 1)
    assert recording.ledger["reason"].item() == why


def test_torch_still_infers_the_shapes_of_stages_so() -> None:
    stage = pytest.importorskip("torch.distributed.pipelining.stage")
    names = callers._NO_DATA["torch.distributed.pipelining.stage"]
    assert any(hasattr(stage.PipelineStage, name) for name in names)
    assert hasattr(stage.PipelineStage, callers._RUN)
