"""Which share of the data the process of a probe has, and which stage of a pipeline its model is.

Processes that hold parts of one model (tensor parallel, stages of a pipeline) have the same data: their
examples have the same numbers, so that the same samples are kept and what they measured can be joined.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from normprobe.capture.hooks.callers import Stage
from normprobe.capture.hooks.fully_sharded import ranks_of_shards
from normprobe.layers.module_attributes import parts_of
from normprobe.samples.dealing import ALONE, Deal, deal_among
from normprobe.samples.hashing import process_name


class DataShare:
    """How the examples of one probe are numbered among those of all processes.

    Attributes:
        deal: that; settled by the first forward, which shows whether it is one of a pipeline stage.
        stage: the index of the stage and how many there are; None where the model is none, or is several.
    """

    def __init__(self, given: Deal | None = ALONE) -> None:
        """Keep what is known.

        Args:
            given: how the user says that examples are dealt; None to ask torch.distributed.
        """
        self.deal, self.stage = given or ALONE, None
        self._settled, self._several = given is not None, False
        self._of_layers: set[int] = set()

    stage: tuple[int, int] | None

    def enter(self, model: nn.Module) -> None:
        """Look which processes hold parts of the layers of a model, before its first forward."""
        if not self._settled and process_name() is not None:
            self._of_layers = ranks_of_layers(model)

    def note(self, stage: Stage | None) -> None:
        """Note the stage whose module a forward begins with, before its examples are numbered."""
        if not self._settled:
            self._settled = True
            if process_name() is not None:
                self.deal = deal_among(self._same(stage), torch.distributed.get_world_size())
        if stage is not None and not self._several:
            # Two stages under one probe are no one place in the pipeline.
            self._several = self.stage not in (None, stage.place)
            self.stage = None if self._several else stage.place

    def _same(self, stage: Stage | None) -> set[int]:
        """The ranks of the processes that have the data of this one."""
        own = torch.distributed.get_rank()
        layers = self._of_layers or {own}
        stages = {own} if stage is None else set(torch.distributed.get_process_group_ranks(stage.group))
        # On a grid of processes each of those beside this one has as many behind it.
        return {rank + other - own for rank in layers for other in stages}


def ranks_of_layers(model: nn.Module) -> set[int]:
    """The ranks that hold parts of the layers of a model together, as its DTensors say; empty without any.

    Not those over which FSDP spreads whole layers, which have other data each: of a tensor of its the first
    axis of the mesh is its, or the first two where it is replicated along the first.
    """
    # Who has DTensors has loaded the module that makes them.
    tensors = sys.modules.get("torch.distributed.tensor")
    if tensors is None:
        return set()
    for tensor, managed in _tensors(model, _fsdp(), None):
        if isinstance(tensor, tensors.DTensor):
            first = 0 if managed is None else _axes_of_fsdp(tensor, managed)
            if first < tensor.device_mesh.ndim:
                return _along(tensor.device_mesh, first)
    return set()


def _axes_of_fsdp(tensor: Any, ranks: frozenset[int]) -> int:
    """How many axes of the mesh of a tensor are of FSDP, which spreads it over these ranks, where known."""
    mesh = tensor.device_mesh
    # Between forwards FSDP may have put a tensor together, which is spread over layers' processes alone then.
    if mesh.ndim == 1 and ranks and {int(rank) for rank in mesh.mesh.flatten()} != ranks:
        return 0
    return 1 + bool(tensor.placements and tensor.placements[0].is_replicate())


def _along(mesh: Any, first: int) -> set[int]:
    """The ranks that are reached from this one along the axes of a mesh from the ``first`` on."""
    place = mesh.get_coordinate()
    if place is None:
        return set()
    return {int(rank) for rank in mesh.mesh[tuple(place[:first])].flatten()}


def _fsdp() -> Any:
    loaded = sys.modules.get("torch.distributed.fsdp")
    return getattr(loaded, "FSDPModule", ())


def _tensors(
    module: nn.Module, fsdp: Any, managed: frozenset[int] | None
) -> Iterator[tuple[Any, frozenset[int] | None]]:
    """The parameters of a module, each with the ranks that FSDP spreads it over; None where it does not."""
    managed = ranks_of_shards(module) if isinstance(module, fsdp) else managed
    yield from ((tensor, managed) for tensor in module._parameters.values() if tensor is not None)
    for part in parts_of(module).values():
        yield from _tensors(part, fsdp, managed)
