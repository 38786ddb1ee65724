"""The arguments of a forward by name, and what they say of its batch and time."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from normprobe.samples.masks import DECODER_INPUTS, side_of


@dataclass(frozen=True, eq=False)
class Batch:
    """What the first tensor of a forward's arguments says of its batch.

    Attributes:
        lead: that tensor; of a packed sequence its data.
        size: how many examples there are.
        time: positions of each, where known.
        time_first: whether the tensor is (time, batch, ...).
        packed: of a packed sequence the example and the position of each row, shape (2, rows).
    """

    lead: Tensor | None
    size: int
    time: int | None
    time_first: bool = False
    packed: NDArray[np.int64] | None = None


def read_batch(arguments: Mapping[str, Any], mask: tuple[int, ...] | None) -> Batch:
    """The batch that named arguments hold.

    Args:
        arguments: by name in the order of the signature.
        mask: (batch, positions) of the padding mask among them, if there is one.
    """
    # First: it is a tuple, and its first tensor has no axis of examples.
    packed = next((value for value in arguments.values() if isinstance(value, PackedSequence)), None)
    if packed is not None:
        return Batch(packed.data, int(packed.batch_sizes[0]), len(packed.batch_sizes), packed=_places(packed))
    lead = next(_tensors(arguments.values()), None)
    if lead is None:
        return Batch(None, 1, None)
    if lead.is_nested:
        return Batch(lead, lead.size(0), None)
    # Numbers without a batch are the features of one example; whole numbers are ids, one an example.
    if lead.dim() == 0 or (lead.dim() == 1 and lead.is_floating_point()):
        return Batch(lead, 1, None)
    sizes = tuple(lead.shape)
    # Of as many examples as positions nothing tells, and the usual order stands.
    if mask is not None and len(sizes) > 1 and mask == sizes[1::-1] != sizes[:2]:
        return Batch(lead, sizes[1], sizes[0], time_first=True)
    time = mask[1] if mask is not None else sizes[1] if len(sizes) > 1 else None
    return Batch(lead, sizes[0], time)


def first_tensor(values: Iterable[Any]) -> Tensor | None:
    """The first tensor among values, looking into tuples, lists and mappings."""
    for value in values:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, (tuple, list)):
            found = first_tensor(value)
        elif isinstance(value, dict):
            found = first_tensor(value.values())
        else:
            continue
        if found is not None:
            return found
    return None


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Every tensor among values, looking into tuples and lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def argument_sizes(arguments: Mapping[str, Any]) -> frozenset[int]:
    """The leading sizes of the tensors among a forward's arguments, and how many edges an index has.

    An index of edges is of whole numbers and has two rows, of where each edge begins and ends.
    """
    sizes: set[int] = set()
    for tensor in _tensors(arguments.values()):
        if tensor.is_nested or not tensor.dim():
            continue
        sizes.add(tensor.shape[0])
        if tensor.dim() == 2 and tensor.shape[0] == 2 and not tensor.is_floating_point():
            sizes.add(tensor.shape[1])
    return frozenset(sizes)


def _places(packed: PackedSequence) -> NDArray[np.int64]:
    """Example and position of each row: packed data go by position, and within one from the longest text."""
    sizes = packed.batch_sizes.tolist()
    rank = np.concatenate([np.arange(size) for size in sizes])
    # None where the texts came in order of length.
    order = packed.sorted_indices
    example = rank if order is None else order.cpu().numpy()[rank]
    return np.stack([example, np.repeat(np.arange(len(sizes)), sizes)]).astype(np.int64)


def decoder_sizes(arguments: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The sizes of the decoder's input in an encoder-decoder, if it is among the arguments."""
    inputs = (arguments.get(name) for name in DECODER_INPUTS)
    return next(
        (tuple(value.shape) for value in inputs if isinstance(value, Tensor) and value.dim() > 1), None
    )


@dataclass(frozen=True, eq=False)
class _Signature:
    """A forward's signature, and what of it names the arguments of an ordinary call.

    Attributes:
        whole: as `inspect` gives it.
        names: the parameters that take positional arguments.
        order: the parameters that have one value each, in order.
    """

    whole: inspect.Signature
    names: tuple[str, ...]
    order: dict[str, None]

    @staticmethod
    def of(whole: inspect.Signature) -> _Signature:
        """What of a signature names arguments."""
        kinds = {name: parameter.kind for name, parameter in whole.parameters.items()}
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        names = tuple(name for name, kind in kinds.items() if kind in positional)
        return _Signature(whole, names, {name: None for name, kind in kinds.items() if kind not in several})

    def covers(self, kwargs: dict[str, Any]) -> bool:
        """Whether each keyword argument is a parameter of its own."""
        return all(name in self.order for name in kwargs)


class Signatures:
    """Names the arguments of modules' forwards.

    A signature is cached by class, as the first instance has it, for the life of a probe.
    """

    def __init__(self) -> None:
        self._by_class: dict[type, _Signature | None] = {}

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
        """The arguments by name; of an ordinary call without `inspect`, which takes ten times as long."""
        signature = self._signature(module)
        if signature is not None and len(args) <= len(signature.names) and signature.covers(kwargs):
            given = {**dict(zip(signature.names, args, strict=False)), **kwargs}
            return {name: given[name] for name in signature.order if name in given}
        return _bound_by_inspect(signature, args, kwargs)

    def _signature(self, module: nn.Module) -> _Signature | None:
        """The signature of a module's forward; None if Python cannot say."""
        cls = type(module)
        if cls not in self._by_class:
            try:
                self._by_class[cls] = _Signature.of(inspect.signature(module.forward))
            # A scripted module has a forward that Python cannot look into.
            except (TypeError, ValueError):
                self._by_class[cls] = None
        return self._by_class[cls]


def _bound_by_inspect(
    signature: _Signature | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments by name of a call that Python may refuse, or of a signature that takes any arguments."""
    try:
        if signature is None:
            raise TypeError
        bound = signature.whole.bind_partial(*args, **kwargs).arguments
    except TypeError:  # the call itself will raise it, too
        return {**{f"args{index}": value for index, value in enumerate(args)}, **kwargs}
    flat: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.whole.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            flat.update({f"{name}{index}": entry for index, entry in enumerate(value)})
        elif kind is inspect.Parameter.VAR_KEYWORD:
            flat.update(value)
        else:
            flat[name] = value
    return flat


_TIME_FIRST = (
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)


def takes_time_first(module: nn.Module) -> bool:
    """Whether the module is one of torch's that read (time, batch, features)."""
    if isinstance(module, _TIME_FIRST):  # only some have the attribute themselves, but their attention has
        return any(vars(child).get("batch_first", True) is False for child in module.modules())
    known = isinstance(module, (nn.RNNBase, nn.MultiheadAttention))
    of_torch = known or type(module).__module__.startswith("torch.")
    # By the instance's own dictionary: reading an attribute may run a property of the model's.
    return of_torch and vars(module).get("batch_first", True) is False


def decoders(model: nn.Module) -> list[nn.Module]:
    """The outermost callable modules on a path with `decoder`: once one is called, the decoder has begun."""
    found: list[nn.Module] = []

    def collect(module: nn.Module, name: str) -> None:
        for part, child in module.named_children():
            path = f"{name}.{part}"
            # A list of modules is never called: its entries are.
            if side_of(path) == "decoder" and not isinstance(child, (nn.ModuleList, nn.ModuleDict)):
                found.append(child)
            elif side_of(path) != "encoder":
                collect(child, path)

    collect(model, "")
    # A module that has two names is called all the same.
    return list(dict.fromkeys(found))
