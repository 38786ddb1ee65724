"""From a batch to the arguments of a model's forward: what it does not take, such as labels, is left out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from normprobe.errors import NormprobeError
from normprobe.layers.module_attributes import attribute
from normprobe.samples.mask_arguments import is_two_valued, read_lengths

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_LABELS = frozenset({"label", "labels", "label_ids", "target", "targets", "y"})
"""Keys of what data sets hold beside the inputs, and arguments that take it."""

_GRAPHS = frozenset({"batch", "batch_index", "edge_index", "edge_attr", "edge_weight"})
"""Arguments of graph networks, which no labels are called after."""

_WRAPPERS = ("module", "model", "base_model")
"""Under which of these a wrapper holds the one model that it hands its arguments on to."""

_CLOSE = 0.8
"""How like an argument's name a key is that is a slip of the pen, as `difflib` counts."""

_MOST_NAMES = 6


class BatchArguments:
    """Makes arguments of the batches of one model, as a loader for training gives them.

    The items of a tuple or list go to the arguments without a default first, keyword-only ones among them. An
    argument with a default takes an item only if that is what it is for (`_takes`): else the labels of a
    loader would be a model's mask, or switch on what a flag does. What is behind the last item that is taken
    is left out. A forward of ``*args`` takes all.

    Attributes:
        is_doubtful: whether an argument of the forward might have been meant for what was left out.
    """

    def __init__(self, model: nn.Module) -> None:
        self.is_doubtful = False
        self._notes: dict[str, None] = {}
        self._signature = _signature_of(model)
        self._class = type(model).__name__
        parameters = [] if self._signature is None else list(self._signature.parameters.values())
        self._parameters = {parameter.name: parameter for parameter in parameters}
        kinds = {parameter.kind for parameter in parameters}
        self._takes_any_item = self._signature is None or inspect.Parameter.VAR_POSITIONAL in kinds
        self._takes_any_name = self._signature is None or inspect.Parameter.VAR_KEYWORD in kinds
        single = [parameter for parameter in parameters if parameter.kind in (*_POSITIONAL, *_NAMED)]
        # Python has those with a default behind; a keyword-only one without may stand behind these.
        self._order = sorted(single, key=lambda parameter: parameter.default is not inspect.Parameter.empty)
        self._required = [p.name for p in single if p.default is inspect.Parameter.empty]
        # By the first batch of so many items, so that all batches are read alike.
        self._counts: dict[int, int] = {}

    def of(self, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and the keyword arguments that a batch stands for.

        Raises:
            NormprobeError: it is no tensor, tuple, list or mapping.
        """
        # A packed sequence is a tuple by its class, and one argument all the same.
        if isinstance(batch, (Tensor, PackedSequence)):
            return self._of_items([batch])
        if isinstance(batch, Mapping):
            return (), self._known(batch)
        if isinstance(batch, (tuple, list)):
            fields = getattr(batch, "_fields", ())
            if self._names_arguments(fields):
                return (), self._known(dict(zip(fields, batch, strict=True)))
            return self._of_items(batch)
        raise NormprobeError(
            "a batch is a tensor, a tuple or list of arguments, or a mapping of them; "
            f"got {type(batch).__name__}"
        )

    def is_batch(self, given: Any) -> bool:
        """Whether a tuple or list of tensors is certainly one batch, and not several of one tensor each.

        Several batches are of one kind: all token ids, or all floating. No one of them alone suffices a
        forward that requires several arguments, and none is the mask of another.
        """
        several = isinstance(given, (tuple, list)) and len(given) > 1
        if not several or not all(isinstance(item, Tensor) for item in given):
            return False
        first, *others = given
        if any(item.is_floating_point() != first.is_floating_point() for item in others):
            return True
        if 1 < len(self._required) <= len(given):
            return True
        pairs = zip(self._order[1:], others, strict=False)
        masks = (item for parameter, item in pairs if "mask" in parameter.name.lower())
        alike = (item for item in masks if item.shape[:2] == first.shape[:2] and item.dim() > 1)
        return any(_may_be_mask(item) and not _may_be_mask(first) for item in alike)

    @property
    def left_out(self) -> str:
        """What of the batches the forward does not take, in a sentence; "" for nothing."""
        return "; ".join(self._notes)

    def explained(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NormprobeError | None:
        """The error to raise for a call that a forward's signature refuses; None if it does not."""
        if self._signature is None:
            return None
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as refusal:
            given = ", ".join([*map(_shown, args), *(f"{name} {_shown(v)}" for name, v in kwargs.items())])
            names = [*self._parameters][:_MOST_NAMES]
            free = [name for name in self._parameters if name not in kwargs]
            slips = {
                key: get_close_matches(key, free, 1, _CLOSE) for key in kwargs.keys() - {*self._parameters}
            }
            meant = "".join(f"; did you mean {close[0]!r}?" for close in slips.values() if close)
            return NormprobeError(
                f"{self._class}.forward({', '.join(names)}{', ...' * (len(self._parameters) > len(names))}) "
                f"cannot be called with a batch of {given or 'nothing'}: {refusal}{meant}; hand over what it "
                "takes: tensors, as in (x for x, *_ in loader), tuples of its arguments in their order, or "
                f"mappings by name, as {{{names[0] if names else 'x'!r}: x}}"
            )
        return None

    def _names_arguments(self, fields: Sequence[str]) -> bool:
        """Whether the fields of a named tuple are the forward's arguments, and not just places."""
        named = [name for name in fields if name in self._parameters]
        return bool(named) and set(self._required) <= set(named)

    def _of_items(self, items: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """As many of the items as the forward takes; of a mapping and labels the mapping."""
        # (inputs by name, labels), as collate functions of tokenizers give it.
        first = items[0] if len(items) else None
        if isinstance(first, Mapping) and self._names_arguments([*map(str, first)]):
            self._note(len(items), 1)
            return (), self._known(first)
        # Of a forward that takes any number nothing is left out: torch says if it does not fit.
        if self._takes_any_item or not self._order:
            return tuple(items), {}
        if len(items) not in self._counts:
            self._counts[len(items)] = self._count(items)
        taken = list(zip(self._order, items[: self._counts[len(items)]], strict=False))
        args = tuple(item for parameter, item in taken if parameter.kind in _POSITIONAL)
        by_name = {parameter.name: item for parameter, item in taken if parameter.kind not in _POSITIONAL}
        return args, by_name

    def _count(self, items: Sequence[Any]) -> int:
        """How many of the leading items the forward takes; what is left out is noted."""
        count = 0
        for parameter, item in zip(self._order, items, strict=False):
            if count and parameter.name not in self._required and not self._takes(parameter, item, items[0]):
                self._note(len(items), count, parameter)
                return count
            count += 1
        self._note(len(items), count)
        return count

    def _takes(self, parameter: inspect.Parameter, item: Any, first: Any) -> bool:
        """Whether an argument with a default is for an item: a flag for no tensor, a mask for no classes.

        An argument of another name whose default is None takes a tensor of two axes or more: a tuple is of
        the arguments in their order. One axis is what labels mostly have.
        """
        name, default = parameter.name, parameter.default
        if name in _LABELS or item is None or (name in _GRAPHS and isinstance(item, Tensor)):
            return True
        if default is not None:
            return isinstance(item, type(default)) or (_is_number(item) and _is_number(default))
        if not isinstance(item, Tensor):
            return False
        if "mask" in name.lower():
            return item.dim() > 1 and _may_be_mask(item)
        if isinstance(first, Tensor) and read_lengths(name, item, {"": first, "x": first}) is not None:
            return True
        return item.is_nested or item.dim() > 1

    def _note(self, has: int, takes: int, optional: inspect.Parameter | None = None) -> None:
        if has <= takes:
            return
        what = "the last item is" if has - takes == 1 else f"the last {has - takes} items are"
        text = f"of each batch of {has} items {what} left out, as labels are: "
        self.is_doubtful = optional is not None and optional.default is None
        if optional is not None and self.is_doubtful:
            names = [parameter.name for parameter in self._order[: takes + 1]]
            by_name = ", ".join(f"{name!r}: ..." for name in names)
            text += f"if it is meant for {optional.name}, give mappings {{{by_name}}}"
        else:
            text += f"the forward takes {'one' if takes == 1 else takes}"
        self._notes[text] = None

    def _known(self, batch: Mapping[Any, Any]) -> dict[str, Any]:
        """The entries of a mapping that the forward has an argument for."""
        names = {name for name, parameter in self._parameters.items() if parameter.kind in _NAMED}
        unknown = [] if self._takes_any_name else [name for name in batch if name not in names]
        free = [name for name in names if name not in batch]
        slips = [
            name for name in unknown if name not in _LABELS and get_close_matches(str(name), free, 1, _CLOSE)
        ]
        # A misspelt argument is to raise, as it does without a probe, and so is one that is missing.
        if (
            not unknown
            or slips
            or len(unknown) == len(batch)
            or any(name not in batch for name in self._required)
        ):
            return dict(batch)
        shown = ", ".join(map(str, unknown))
        self._notes[f"of each batch {shown} left out: the forward has no such argument"] = None
        return {name: value for name, value in batch.items() if name not in unknown}


def _may_be_mask(item: Tensor) -> bool:
    """Whether a tensor has two values alone, as far as it can be asked."""
    if item.is_nested or item.is_complex() or item.layout is not torch.strided:
        return False
    return item.is_meta or item.numel() == 0 or is_two_valued(item)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """A value of a batch in an error: its dtype and shape, or its type."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}".removeprefix("torch.")
    return type(value).__name__


def _signature_of(model: nn.Module) -> inspect.Signature | None:
    """The signature of a model's forward; None if Python cannot say."""
    found = None
    for module in _within(model):
        try:
            found = inspect.signature(module.forward)
        except (TypeError, ValueError):
            return None
        # A wrapper takes anything and hands it on: the module within says what is taken.
        if all(p.kind is not inspect.Parameter.VAR_POSITIONAL for p in found.parameters.values()):
            break
    return found


def _within(model: nn.Module) -> Iterator[nn.Module]:
    """A model and what it wraps: compiled, parallel and averaged models hand on whatever they are given."""
    module: Any = model
    while isinstance(module, nn.Module):
        yield module
        children = module._modules
        # An only child: beside others `module` is the name of some part, and no wrapper's.
        only = next(iter(children.items())) if len(children) == 1 else ("", None)
        module = attribute(module, "_orig_mod") or (only[1] if only[0] in _WRAPPERS else None)
