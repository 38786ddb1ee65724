"""One forward as the mode hears it: whose weight a function was given, and where the mode is in place."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from normprobe.calls import Use
from normprobe.layers import Layer
from normprobe.views import is_lazy
from normprobe.watch import Watch


class Owner(NamedTuple):
    """The layer that a weight belongs to."""

    watch: Watch
    weight: Tensor


@dataclass(eq=False)
class Habit:
    """What was heard in forwards of one kind.

    Attributes:
        forwards: how many there were.
        places: the modules (by id) inside which something was heard.
        watches: the layers that were heard, by their index.
    """

    forwards: int = 0
    places: set[int] = field(default_factory=set)
    watches: dict[int, Watch] = field(default_factory=dict)


@dataclass(eq=False)
class Session:
    """The mode during one forward.

    Attributes:
        habit: what is known of forwards of its kind.
        everywhere: whether it listens to the whole forward.
        owners: the layers, by the id of their weight.
        on: whether the mode is in place.
        inside: the modules entered, and whether the mode was in place around each.
        copies: casts of weights, by id.
    """

    habit: Habit
    everywhere: bool
    owners: dict[int, Owner]
    on: bool = False
    inside: list[tuple[nn.Module, bool]] = field(default_factory=list)
    copies: dict[int, tuple[weakref.ref[Tensor], Owner]] = field(default_factory=dict)

    def learn(self, watch: Watch) -> None:
        """Remember where a layer was heard, so that the next forward is listened to there."""
        habit = self.habit
        if watch.index not in habit.watches and habit.forwards > 1:
            watch.note(f"calls of its weight alone are counted from forward {habit.forwards} of a kind on")
        habit.watches[watch.index] = watch
        habit.places.add(id(self.inside[-1][0]))

    def note_copy(self, weight: Tensor, copy: Tensor) -> None:
        """A tensor was cast: if it is a weight, the copy stands for it as long as it lives."""
        owner = self._owner_of(weight)
        if owner is not None and copy is not weight and copy.shape == owner.weight.shape:
            self.copies[id(copy)] = weakref.ref(copy), owner

    def watch_of(self, use: Use, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Watch | None:
        """The layer whose own computation a call is, if it is one's."""
        for argument in use.weights:
            tensor = argument.of(args, kwargs)
            owner = None if tensor is None else self._owner_of(tensor)
            if tensor is not None and owner is not None:
                return owner.watch if _as_stored(owner, tensor, use) else None
        return None

    def _owner_of(self, tensor: Tensor) -> Owner | None:
        """The layer that a weight, a cast of one, or a view of either belongs to."""
        found = self.owners.get(id(tensor))
        if found is None and id(tensor) in self.copies:
            alive, owner = self.copies[id(tensor)]
            return owner if alive() is tensor else None
        if found is None and tensor._base is not None:
            return self._owner_of(tensor._base)
        return found


def owners(watches: Iterable[Watch]) -> dict[int, Owner]:
    """The layers by the id of what they may be known by: their weight, or a norm's bias or running mean."""
    found: dict[int, Owner] = {}
    for watch in watches:
        for tensor in _known_by(watch.layer):
            found.setdefault(id(tensor), Owner(watch, tensor))
    return found


def _known_by(layer: Layer) -> list[Tensor]:
    """The tensors that tell a layer from others, as the module holds them now."""
    held = {**layer.module._parameters, **layer.module._buffers}
    names = ["weight"] if layer.view.kind == "linear" else ["weight", "bias", "running_mean"]
    given = [held.get(name) for name in ([layer.parameter] if layer.parameter else names)]
    return [tensor for tensor in given if tensor is not None and not is_lazy(tensor)]


def _as_stored(owner: Owner, tensor: Tensor, use: Use) -> bool:
    """Whether a function that takes the tensor computes what the layer does, with the whole of its weight."""
    weight = owner.weight
    if owner.watch.view.kind != "linear":
        return tensor.shape == weight.shape
    sideways = owner.watch.layer.type == "Conv1D"  # of transformers, which stores (in, out)
    if use.transposed is sideways:
        return tensor.shape == weight.shape and (tensor._base is None or tensor.stride() == weight.stride())
    return tensor.shape == weight.shape[::-1] and tensor.stride() == weight.stride()[::-1]
