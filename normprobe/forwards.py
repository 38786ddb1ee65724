"""What one forward is: its number, its batch and time, its masks, and which thread is in it."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from normprobe.alignment import Grid
from normprobe.masks import _DECODER_INPUTS, Masks, Padding


@dataclass(eq=False)
class Forward:
    """One outermost call of the model, or of a module of it that contains probed layers.

    Attributes:
        owner: the module that was called.
        call: running number of the forward.
        first: running number of its first example.
        batch: how many examples it has.
        time: positions of each, where known.
        decoder_time: likewise of the decoder's sequence in an encoder-decoder.
        masks: its padding masks.
        measured: whether this forward is measured.
        lead: its first tensor, until a layer of torch that is not batch-first may have claimed it.
        labels: the text of each sample, as the user's callable gave it.
        repeats: per layer and site how often it has fired in this forward.
        decoder_fired: whether a layer on a path with `decoder` has fired.
        swapped: whether the first tensor turned out to be (time, batch, ...).
        stash: inputs of layers whose first call is under way.
        cache: assignments that layers of this forward share.
    """

    owner: nn.Module
    call: int
    first: int
    batch: int
    time: int | None
    decoder_time: int | None
    masks: Masks
    measured: bool
    lead: Tensor | None = None
    labels: list[list[str]] | None = None
    repeats: dict[tuple[int, str], int] = field(default_factory=dict)
    decoder_fired: bool = False
    swapped: bool = False
    stash: dict[int, Tensor] = field(default_factory=dict)
    cache: dict[Any, Any] = field(default_factory=dict)

    def grid_of(self, name: str, padding: Padding | None) -> Grid:
        """The batch and time that a layer of this name works on."""
        if padding is not None:
            return Grid(self.batch, padding.real.shape[1])
        if self.masks.two_sided and self.masks.of(name, self.decoder_fired) is self.masks.decoder:
            return Grid(self.batch, self.decoder_time)
        return Grid(self.batch, self.time)


class Forwards:
    """Counts the forwards of one probe and knows, for each thread, the one it is in."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.calls = 0
        self.measured = 0
        self.examples = 0
        self._lock = threading.Lock()
        self._threads = threading.local()
        self._signatures: dict[type, inspect.Signature | None] = {}

    @property
    def current(self) -> Forward | None:
        """The forward that this thread is in."""
        return getattr(self._threads, "forward", None)

    def end(self, module: nn.Module) -> None:
        """Leave the forward if it is this module's."""
        forward = self.current
        if forward is not None and forward.owner is module:
            self._threads.forward = None

    def clear(self) -> None:
        """Forget any forward that was cut short."""
        self._threads = threading.local()

    def begin(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], find: Callable[..., Masks]
    ) -> Forward:
        """Start a forward with this call; ``find`` gives the masks of (named arguments, args, kwargs)."""
        arguments = self.named(module, args, kwargs)
        with self._lock:
            call = self.calls
            measured = call % self.every == 0
            self.calls += 1
            self.measured += measured
        masks = find(arguments, args, kwargs) if measured else Masks()
        lead, batch, time = read_batch(arguments, masks.own)
        with self._lock:
            first = self.examples
            self.examples += batch
        other = _decoder_time(arguments, masks)
        forward = Forward(module, call, first, batch, time, other, masks, measured, lead)
        if type(module).__module__.startswith("torch.nn") and _time_first_inside(module):
            self.swap(forward)
        self._threads.forward = forward
        return forward

    def swap(self, forward: Forward) -> None:
        """Read the forward's first tensor as (time, batch, features), or (time, features) of one example."""
        lead = forward.lead
        if lead is None or lead.is_nested or lead.dim() < 2 or forward.swapped:
            return
        batch = lead.shape[1] if lead.dim() > 2 else 1
        with self._lock:
            self.examples += batch - forward.batch
        forward.batch, forward.time, forward.swapped = batch, lead.shape[0], True

    def named(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name in the order of the signature; a mapping's entries stand for themselves."""
        arguments: dict[str, Any] = {}
        for name, value in self._bound(module, args, kwargs).items():
            if isinstance(value, Mapping):
                arguments.update({str(key): entry for key, entry in value.items()})
            elif value is not None:
                arguments[name] = value
        return arguments

    def _bound(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        signature = self._signature(module)
        try:
            if signature is None:
                raise TypeError
            bound = signature.bind_partial(*args, **kwargs).arguments
        except TypeError:  # the call itself will tell the user
            return {**{f"args{index}": value for index, value in enumerate(args)}, **kwargs}
        flat: dict[str, Any] = {}
        for name, value in bound.items():
            kind = signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                flat.update({f"{name}{index}": entry for index, entry in enumerate(value)})
            elif kind is inspect.Parameter.VAR_KEYWORD:
                flat.update(value)
            else:
                flat[name] = value
        return flat

    def _signature(self, module: nn.Module) -> inspect.Signature | None:
        cls = type(module)
        if cls not in self._signatures:
            try:
                self._signatures[cls] = inspect.signature(module.forward)
            except (TypeError, ValueError):
                self._signatures[cls] = None
        return self._signatures[cls]


def read_batch(arguments: Mapping[str, Any], mask: Padding | None) -> tuple[Tensor | None, int, int | None]:
    """The first tensor of the arguments, the batch and, where there is one, the time."""
    packed = next((value for value in arguments.values() if isinstance(value, PackedSequence)), None)
    if packed is not None:
        return packed.data, int(packed.batch_sizes[0]), len(packed.batch_sizes)
    lead = next(_tensors(arguments.values()), None)
    if lead is None:
        return None, 1, None
    if lead.is_nested:
        return lead, lead.size(0), None
    if lead.dim() == 0 or (lead.dim() == 1 and lead.is_floating_point()):
        return lead, 1, None
    sizes = tuple(lead.shape)
    if mask is not None and len(sizes) > 1 and mask.real.shape == sizes[1::-1] != sizes[:2]:
        return lead, sizes[1], sizes[0]
    time = mask.real.shape[1] if mask is not None else sizes[1] if len(sizes) > 1 else None
    return lead, sizes[0], time


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _decoder_time(arguments: Mapping[str, Any], masks: Masks) -> int | None:
    if masks.decoder is not None:
        return int(masks.decoder.real.shape[1])
    for name in _DECODER_INPUTS:
        value = arguments.get(name)
        if isinstance(value, Tensor) and value.dim() > 1:
            return value.shape[1]
    return None


def takes_time_first(module: nn.Module) -> bool:
    """Whether the module is one of torch's that read (time, batch, features)."""
    return type(module).__module__.startswith("torch.nn") and getattr(module, "batch_first", True) is False


def _time_first_inside(module: nn.Module) -> bool:
    return any(takes_time_first(child) for child in module.modules())


def in_backward() -> bool:
    """Whether autograd is running backward in this thread: a forward there is a recomputation."""
    return bool(torch._C._current_graph_task_id() != -1)
