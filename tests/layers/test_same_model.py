"""Looking again for the layers of a model that may have changed since a probe of it was made or left."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import normprobe
from normprobe.layers.same_model import fingerprint
from normprobe.layers.view_registry import register_view


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


class Unknown(nn.Module):
    pass


CHANGES: dict[str, Callable[[Model], object]] = {
    "a layer more": lambda model: model.body.append(nn.Linear(4, 4)),
    "another layer": lambda model: model.body.__setitem__(1, nn.RMSNorm(4)),
    "another number": lambda model: setattr(model.body[1], "eps", 0.25),
    "a tensor of other sizes in place": lambda model: setattr(model.body[0].weight, "data", torch.ones(3, 4)),
    "another parameter": lambda model: setattr(model.body[0], "weight", nn.Parameter(torch.ones(4, 4))),
    "a layer less": lambda model: model.body.__delitem__(0),
    "another name": lambda model: model.body.__setattr__("norm", model.body[1]),
    "a class taught": lambda model: register_view(Unknown, kind=None),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_layers_are_found_by_changes_the_fingerprint(what: str) -> None:
    model = Model()
    before = fingerprint(model)
    assert fingerprint(model) == before
    CHANGES[what](model)
    assert fingerprint(model) != before


def test_a_layer_put_in_between_two_blocks_is_probed_in_the_second() -> None:
    model, x = Model(), torch.randn(3, 4)
    probe = normprobe.Probe(model)
    model.body.append(nn.Linear(4, 4))
    with probe:
        model(x)
    assert probe.recording.ledger["layer"].tolist() == ["body.0", "body.1", "body.2"]
    model.body[1] = nn.RMSNorm(4, eps=0.5)
    with probe:
        model(x)
    ledger = probe.recording.ledger
    assert set(ledger["type"]) == {"Linear", "LayerNorm", "RMSNorm"}


def test_a_predicate_is_asked_at_each_entry() -> None:
    wanted = {"body.0"}
    probe = normprobe.Probe(Model(), layers=lambda name, module: name in wanted)
    wanted.add("body.1")
    with probe:
        probe.model(torch.randn(3, 4))
    assert probe.recording.ledger["layer"].tolist() == ["body.0", "body.1"]
