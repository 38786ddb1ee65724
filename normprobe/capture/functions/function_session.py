"""The mode in one forward: whose weight a function was given, and where the mode is in place."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, NamedTuple

from torch import Tensor, nn

from normprobe.capture.hooks.torch_internals import base_of
from normprobe.capture.hooks.weight_functions import WeightUse
from normprobe.layers.layer import Layer
from normprobe.layers.module_attributes import attribute, is_lazy, own_tensors
from normprobe.layers.parameter_layers import projection_part
from normprobe.vocabulary import KINDS

_FRAMES = 8
"""How far out of a function the `forward` of a norm is looked for: torch's own functions lie between."""


class WeightOwner(NamedTuple):
    """The layer whose weight a tensor is, as long as it lives: the weight itself, or a cast of it."""

    layer: Layer
    weight: weakref.ref[Tensor]


class UsedLayer(NamedTuple):
    """A layer that a function computes, and the owner of its weight: another one if it takes a part of it."""

    layer: Layer
    owner: Layer


@dataclass(eq=False)
class ListeningSchedule:
    """Where to listen in forwards of one kind; it lives as long as the probe, guarded by its lock.

    Attributes:
        forwards: how many there were.
        complete: whether one of them was listened to from beginning to end.
        containers: the modules (by id) inside which a function used a layer's weight.
        layers: these layers, by their key.
    """

    forwards: int = 0
    complete: bool = False
    containers: set[int] = field(default_factory=set)
    layers: dict[tuple[int, str], Layer] = field(default_factory=dict)


@dataclass(eq=False)
class FunctionSession:
    """The mode during one forward, in one thread.

    Attributes:
        schedule: that of forwards of its kind.
        everywhere: whether it listens to the whole forward.
        layers: those that functions may use, by the id of their module.
        owners: the layers, by the id of their weight or of a cast of it; an entry counts only while its weak
            reference is that very tensor, for ids are used again.
        sharing: of an owner, by its key, the other layers that hold the very same weight, by theirs.
        bare: the norms that store nothing, by the code of their `forward`.
        around: of a module (by id) inside a Linear that is one by its own call, that Linear.
        on: whether the mode is in place.
        entered: the modules whose calls are under way, and whether the mode was in place around each.
    """

    schedule: ListeningSchedule
    everywhere: bool
    layers: dict[int, list[Layer]]
    owners: dict[int, WeightOwner] = field(default_factory=dict)
    sharing: dict[tuple[int, str], dict[tuple[int, str], Layer]] = field(default_factory=dict)
    bare: dict[CodeType, list[Layer]] = field(default_factory=dict)
    around: dict[int, Layer] = field(default_factory=dict)
    on: bool = False
    entered: list[tuple[nn.Module, bool]] = field(default_factory=list)

    @staticmethod
    def of(schedule: ListeningSchedule, layers: Iterable[Layer], *, everywhere: bool) -> FunctionSession:
        """A session that finds the uses of these layers."""
        by_module: dict[int, list[Layer]] = {}
        for layer in layers:
            # Those of further kinds are known by calls of their modules alone.
            if not layer.refused and layer.view.kind in KINDS:
                by_module.setdefault(id(layer.module), []).append(layer)
        session = FunctionSession(schedule, everywhere, by_module)
        session.add_owners(layer for held in by_module.values() for layer in held)
        for layer in (layer for held in by_module.values() for layer in held):
            code = attribute(attribute(type(layer.module), "forward"), "__code__")
            if layer.view.kind != "linear" and code is not None and not own_tensors(layer.module):
                session.bare.setdefault(code, []).append(layer)
            if layer.view.kind == "linear" and layer.view.unconfirmed:
                session.around |= {id(part): layer for part in layer.module.modules()}
        return session

    def add_owners(self, layers: Iterable[Layer]) -> None:
        """Record what the modules of layers hold now: their weight, or a norm's bias or running mean."""
        for layer in layers:
            names = ["weight"] if layer.view.kind == "linear" else ["weight", "bias", "running_mean"]
            for name in [layer.parameter] if layer.parameter else names:
                tensor = _held(layer.module, name)
                owner = None if tensor is None else self._owner_of(tensor)
                if tensor is not None and owner is None:
                    self.owners[id(tensor)] = WeightOwner(layer, weakref.ref(tensor))
                elif owner is not None and owner.layer.key != layer.key:  # tied weights
                    self.sharing.setdefault(owner.layer.key, {})[layer.key] = layer

    def refresh_owners(self, module: nn.Module) -> None:
        """Look again at a module and its children: sharded and offloaded weights appear only for a call."""
        for child in (module, *module.children()):
            self.add_owners(self.layers.get(id(child), ()))

    def note_use(self, layer: Layer) -> int:
        """Remember where a layer was used, to listen there; how many forwards may have gone by without."""
        schedule = self.schedule
        missed = schedule.forwards - 1 if schedule.complete and layer.key not in schedule.layers else 0
        # The innermost module that holds layers: listening there is enough, and the cheapest.
        schedule.layers[layer.key] = layer
        schedule.containers.add(id(self.entered[-1][0]))
        return missed

    def note_copy(self, weight: Tensor, copy: Tensor) -> None:
        """A tensor was cast: if it is a weight, the copy stands for it as long as it lives."""
        owner = self._owner_of(weight)
        if owner is not None and copy is not weight:
            self.owners[id(copy)] = WeightOwner(owner.layer, weakref.ref(copy))

    def layer_of(self, use: WeightUse, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> UsedLayer | None:
        """The layer whose own computation a call is, if it is one's."""
        for argument in use.weights:
            tensor = argument.of(args, kwargs)
            owner = None if tensor is None else self._owner_of(tensor)
            if tensor is not None and owner is not None:
                # A matrix that no module calls its weight is a Linear's where it stands as such alone.
                other = use.moves and owner.layer.by_use
                layer = None if other else _computed(owner, tensor, use)
                return None if layer is None else UsedLayer(layer, owner.layer)
        return None

    def owners_among(self, values: Iterable[Any]) -> Iterator[Layer]:
        """The layers whose weights, casts or views of them are among these values."""
        for value in values:
            if isinstance(value, Tensor):
                if (owner := self._owner_of(value)) is not None:
                    yield owner.layer
            elif isinstance(value, (list, tuple)):
                yield from self.owners_among(value)

    def running(self) -> Iterator[Layer]:
        """The norms that store nothing, so that no function can show them, whose `forward` is under way."""
        # By the frames of Python: a call of `forward` leaves no other trace, and most models have none such.
        frame: FrameType | None = sys._getframe() if self.bare else None
        for _ in range(_FRAMES):
            if frame is None:
                return
            if frame.f_code in self.bare and frame.f_code.co_varnames:
                called = frame.f_locals.get(frame.f_code.co_varnames[0])
                yield from (layer for layer in self.bare[frame.f_code] if layer.module is called)
            frame = frame.f_back

    def _owner_of(self, tensor: Tensor) -> WeightOwner | None:
        """The layer that a weight, a cast of one, or a view of either belongs to."""
        # A weak reference, not the tensor: a cast of a weight must not outlive its use.
        owner = self.owners.get(id(tensor))
        if owner is not None and owner.weight() is tensor:
            return owner
        base = base_of(tensor)
        return None if base is None else self._owner_of(base)


def holds_bias(layer: Layer) -> bool:
    """Whether a layer that is a module, or attention's projection, has a bias of its own."""
    own = "in_proj_bias" if layer.parameter.startswith("in_proj") else "" if layer.parameter else "bias"
    return _held(layer.module, own) is not None


def _held(module: nn.Module, name: str) -> Tensor | None:
    """A tensor of a module, be it a parameter, a buffer or, as wrappers keep it, a plain attribute."""
    # From the dictionaries: `getattr` would compute parametrized weights, and calls a module's `__getattr__`.
    for holder in (module._parameters, module._buffers, vars(module)):
        tensor = holder.get(name)
        if isinstance(tensor, Tensor) and not is_lazy(tensor):
            return tensor
    return None


def _computed(owner: WeightOwner, tensor: Tensor, use: WeightUse) -> Layer | None:
    """The layer that computes what this use of the tensor does: with all of its weight, or a named part."""
    layer, weight = owner.layer, owner.weight()
    if weight is None:
        return None
    if layer.view.kind != "linear":  # a norm uses all of its weight
        return layer if tensor.shape == weight.shape else None
    # Conv1D of transformers stores (in, out), as do others that say how many features go in.
    other_way = layer.parameter != "" and layer.n_features == weight.shape[0] != weight.shape[-1]
    stored_transposed = layer.type == "Conv1D" or other_way
    if use.transposed is not stored_transposed:
        transposed = tensor.shape == weight.shape[::-1] and tensor.stride() == weight.stride()[::-1]
        return layer if transposed else None
    if tensor.shape == weight.shape and (base_of(tensor) is None or tensor.stride() == weight.stride()):
        return layer
    # One matrix for each of a batch, as a product of batches takes it.
    leading = zip(tensor.shape[:-2], tensor.stride()[:-2], strict=True)
    if tensor.dim() > weight.dim() == 2 and all(size == 1 or stride == 0 for size, stride in leading):
        return layer if (tensor.shape[-2:], tensor.stride()[-2:]) == (weight.shape, weight.stride()) else None
    # Rows of a fused projection: those of the queries, the keys or the values.
    return projection_part(layer, weight, tensor)
