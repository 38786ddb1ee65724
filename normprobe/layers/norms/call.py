"""One call of a norm, arranged for each formula as samples, rows and features in float64.

Only a part of a large call is looked at, and of that only what can tell one formula from another: a constant
sample is 0 after any of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from normprobe.layers.module_attributes import attribute, is_per_feature, own_tensors
from normprobe.layers.norms.affine import Affine, affines, affines_of, tensors_named, vector
from normprobe.layers.norms.formulas import Formula
from normprobe.layers.to_rows import arrange
from normprobe.layers.view import View

TOLERANCE = 0.02
"""Largest relative error with which a formula still reproduces a call; bfloat16 alone rounds by 0.004."""

_FULL_PRECISION = 1e-5
"""Above the machine epsilon of float32 (1.2e-7), below that of float16 (9.8e-4) and bfloat16 (7.8e-3)."""

_LEAST_SPREAD = 1e-4
"""Range of a sample relative to its largest value, below which float32 cannot tell its mean from itself."""

# How much of a call is looked at, in rows, examples and numbers: it happens inside the user's first forward.
_GRAPH_ARGUMENTS = {"batch", "index", "batch_index", "batch_idx", "graph_index", "segment_ids"}
"""The usual names of the argument of a norm over graphs that says which graph each row is of."""

_ROWS = 256
_EXAMPLES = 8
_NUMBERS_OF_ROWS, _NUMBERS_OF_EXAMPLES = 1 << 17, 1 << 18
_MOST_NUMBERS_OF_EXAMPLE, _MOST_NUMBERS_OF_BATCH = 1 << 20, 1 << 21


@dataclass(frozen=True, eq=False)
class Arrays:
    """The informative samples of one call as a formula reads them, each (samples, rows, features) in float64.

    Attributes:
        x: the input.
        y: the output.
        gates: the other tensors of the call that have as many numbers.
        time: how many steps the rows consist of, where there are several.
        examples: which element of the leading axis each sample is of, shape (samples,).
        affines: the ways in which the module may scale and shift these samples.
    """

    x: Tensor
    y: Tensor
    gates: tuple[Tensor, ...]
    time: int | None
    examples: Tensor
    affines: tuple[Affine, ...]


class NormCall:
    """One call of a norm.

    Attributes:
        module: the norm.
        before: its input, as it was before the call.
        after: its output, in the shape of the input.
        gate_names: what the other tensors of the call are called that have as many numbers.
    """

    def __init__(
        self, module: nn.Module, before: Tensor, after: Tensor, others: Mapping[str, Tensor] | None = None
    ) -> None:
        # A norm may flatten its input and give as many numbers in another shape.
        self.module, self.before, self.after = module, before, after.reshape(before.shape)
        others = others or {}
        gates = {
            name: tensor.reshape(before.shape)
            for name, tensor in others.items()
            if tensor.dtype.is_floating_point and tensor.numel() == before.numel()
        }
        self.gate_names, self._gates = tuple(gates), tuple(gates.values())
        # Rounded to half precision, a nearly constant sample is normalized to its rounding errors.
        precise = torch.finfo(before.dtype).eps < _FULL_PRECISION
        self._least_spread = _LEAST_SPREAD if precise else TOLERANCE
        self._indices = [tensor for tensor in others.values() if _is_index(tensor, before)]
        self._arrays: dict[tuple[object, ...], Arrays | None] = {}

    @cached_property
    def axes(self) -> dict[int, int]:
        """The axes of its input that may hold the features and their sizes, the last first.

        A stored tensor of as many numbers as an axis is long says that it is one of those.
        """
        sizes = self.before.shape
        every = {axis: sizes[axis] for axis in (-1, *range(1, len(sizes) - 1)) if sizes}
        return self.axes_of_stored_sizes or every

    @cached_property
    def axes_of_stored_sizes(self) -> dict[int, int]:
        """Those of them that a stored tensor speaks for, with their sizes."""
        sizes = self.before.shape
        every = {axis: sizes[axis] for axis in (-1, *range(1, len(sizes) - 1)) if sizes}
        shaped = {axis: size for axis, size in every.items() if axis in self._shaped_axes}
        return shaped or {axis: size for axis, size in every.items() if size in self._stored_sizes}

    @cached_property
    def _stored_sizes(self) -> set[int]:
        """The sizes of the vectors that the module stores, of several of them together also each one's."""
        stored = [tensor for tensor in own_tensors(self.module).values() if tensor.numel() > 1]
        # A table of weights, a row for each class or head, is as wide as the features.
        rows = {tensor.shape[-1] for tensor in stored if not is_per_feature(tensor)}
        return {tensor.numel() for tensor in stored} | rows

    @cached_property
    def _shaped_axes(self) -> set[int]:
        """The axes along which a stored tensor such as (1, C, 1, 1) lies when it broadcasts."""
        dims = self.before.dim()
        shaped = [t for t in own_tensors(self.module).values() if t.dim() > 1 and t.numel() > 1]
        axes = {
            # Counted from behind, as broadcasting aligns shapes.
            max(range(-t.dim(), 0), key=lambda axis: t.shape[axis])
            for t in shaped
            if is_per_feature(t) and _broadcasts(t, self.before)
        }
        return {axis if axis == -1 else axis + dims for axis in axes}

    @cached_property
    def stores_what_broadcasts(self) -> bool:
        """Whether all that the module stores may scale or shift the output: it broadcasts against it.

        A row of numbers for each type does so by an index among the arguments.
        """
        return all(
            _broadcasts(tensor, self.before)
            or (self._indices and tensor.shape[-1:] == self.before.shape[-1:])
            for tensor in own_tensors(self.module).values()
            if not is_per_feature(tensor)
        )

    @cached_property
    def groups(self) -> int:
        """How many groups the module says its features fall into."""
        size = attribute(self.module, "group_size")
        width = max(self._stored_sizes, default=self.before.shape[-1] if self.before.dim() else 1)
        if isinstance(size, int) and size > 0 and width % size == 0:
            return width // size
        counts = [attribute(self.module, name) for name in ("num_groups", "n_groups", "groups")]
        return next((count for count in counts if isinstance(count, int) and count > 0), 1)

    @cached_property
    def graphs(self) -> Tensor | None:
        """Which graph each row is of, where rows are nodes of graphs; 0 where the call tells none apart."""
        if self.before.dim() != 2:
            return None
        if self._indices:
            return self._indices[0]
        return torch.zeros(len(self.before), dtype=torch.int64) if takes_graphs(self.module) else None

    def stores_affine(self, formula: Formula) -> bool:
        """Whether the module stores a scale or shift for the features of a formula."""
        width = self.before.shape[formula.axis] if formula.trailing == 1 else 0
        return any(vector(self.module, name, width) is not None for name in ("weight", "bias"))

    @property
    def stored_statistics(self) -> bool:
        """Whether the module holds two vectors that are no parameters: a mean and a spread fixed earlier."""
        widths = [t.numel() for t in self.module.buffers(recurse=False) if is_per_feature(t)]
        return any(widths.count(size) > 1 for size in self.axes.values())

    def arrays(self, formula: Formula) -> Arrays | None:
        """The samples of the call that can tell whether a formula reproduces it; None if there are none.

        Formulas with the same arrangement share one result: arranging in float64 is what a first call costs.
        """
        # Cumulative statistics read whole examples: what differs is the formula, not the arrangement.
        together = "example" if formula.together == "past" else formula.together
        if together == "graph" and self.graphs is None:
            return None
        key = (formula.axis, formula.trailing, together)
        if key not in self._arrays:
            self._arrays[key] = self._arranged(formula)
        return self._arrays[key]

    def _arranged(self, formula: Formula) -> Arrays | None:
        view = formula.corrected(View("norm"))
        whole = [arrange(view, tensor) for tensor in (self.before, self.after, *self._gates)]
        chosen = _chosen_samples(formula, whole[0].values)
        if chosen is None:
            return None
        # Chosen first: only what is looked at is copied, off an accelerator, too, and made float64.
        parts = [
            _samples(formula, arranged.values)[chosen].detach().cpu().to(torch.float64) for arranged in whole
        ]
        x, y = parts[0].flatten(1), parts[1].flatten(1)
        informative = x.isfinite().all(1) & y.isfinite().all(1)
        # Running statistics normalize a constant sample to something, a batch's are over all samples.
        if formula.together not in ("running", "batch", "graph"):
            informative &= x.amax(1) - x.amin(1) > self._least_spread * x.abs().amax(1)
        # One sample that is not finite spoils the statistics of the whole batch.
        of_all = formula.together in ("batch", "graph")
        if not informative.any() or (of_all and not informative.all()):
            return None
        x, y, *gates = (part[informative] for part in parts)
        inner = whole[0].inner
        index = torch.arange(chosen.start, chosen.stop, chosen.step)[informative]

        def chosen_of(tensor: Tensor) -> Tensor:
            arranged = arrange(view, tensor.expand(self.before.shape))
            part = _samples(formula, arranged.values)[chosen].detach().cpu().to(torch.float64)
            return part[informative]

        affines = self._affines_by_row(x.shape[2], chosen_of) or self._affines(x.shape[2], index)
        each = (
            len(_samples(formula, whole[0].values)) // max(whole[0].leading[0], 1) if whole[0].leading else 1
        )
        time = inner[0] if len(inner) else None
        return Arrays(x, y, tuple(gates), time, index // max(each, 1), affines)

    def _affines(self, width: int, index: Tensor) -> tuple[Affine, ...]:
        """What may scale and shift the samples of this index: one for all, or a row of weights a head."""
        sizes = self.before.shape
        per_head = len(sizes) > 2 and sizes[-1] == width and sizes[-2] * width in self._stored_sizes
        heads = sizes[-2] if per_head else 1
        stored = affines(self.module, heads * width)
        return tuple(affine if heads == 1 else affine.of_heads(heads, index) for affine in stored)

    def _affines_by_row(self, width: int, chosen: Callable[[Tensor], Tensor]) -> tuple[Affine, ...]:
        """What may scale and shift samples by numbers that one feature has several of; nothing otherwise.

        Args:
            width: the number of features.
            chosen: the samples looked at of a tensor that broadcasts against the input.
        """
        weight, bias = (self._by_row(name, width) for name in ("weight", "bias"))
        if weight is None and bias is None:
            return ()
        scale, shift = (
            vector(self.module, name, width) if tensor is None else chosen(tensor)
            for name, tensor in (("weight", weight), ("bias", bias))
        )
        return tuple(affines_of(scale, shift))

    def _by_row(self, name: str, width: int) -> Tensor | None:
        """The weight or bias with several numbers a feature, in a shape that broadcasts, or None."""
        for tensor in tensors_named(self.module, name):
            if is_per_feature(tensor) or tensor.numel() == width:
                continue
            if _broadcasts(tensor, self.before):
                return tensor.detach()
            for index in self._indices:
                rows = tensor.dim() == 2 and tensor.shape[1] == self.before.shape[-1]
                if rows and int(index.min()) >= 0 and int(index.max()) < len(tensor):
                    # One row of weights for each example, the same at all of its positions.
                    middle = (1,) * (self.before.dim() - 2)
                    return tensor.detach()[index].reshape(len(index), *middle, tensor.shape[1])
        return None


def takes_graphs(module: nn.Module) -> bool:
    """Whether a module may be told which graph each row is of."""
    try:
        names = inspect.signature(module.forward).parameters
    # A forward of C or of torch.jit has no signature to read.
    except (TypeError, ValueError):
        return False
    return not _GRAPH_ARGUMENTS.isdisjoint(names)


def graph_index(values: Iterable[object], rows: int) -> Tensor | None:
    """The vector among the arguments of a call that says which graph each of its rows is of, if there is."""
    found = (v for v in values if isinstance(v, Tensor) and _is_index(v, torch.empty(rows, 0)))
    return next(found, None)


def _broadcasts(tensor: Tensor, to: Tensor) -> bool:
    """Whether a tensor broadcasts against another without making it larger."""
    sizes = (1,) * (to.dim() - tensor.dim()) + tuple(tensor.shape)
    return len(sizes) == to.dim() and all(a in (1, b) for a, b in zip(sizes, to.shape, strict=True))


def _is_index(tensor: Tensor, x: Tensor) -> bool:
    """Whether a tensor of a call may say for each element of the leading axis which of several it is."""
    integer = not tensor.dtype.is_floating_point and not tensor.dtype.is_complex
    return integer and tensor.dtype != torch.bool and tensor.dim() == 1 and tensor.shape == x.shape[:1]


def _samples(formula: Formula, values: Tensor) -> Tensor:
    """Values (samples, rows, features), as samples of one row each where a formula treats rows apart."""
    return values.flatten(0, 1)[:, None] if formula.together in ("features", "running") else values


def _chosen_samples(formula: Formula, values: Tensor) -> slice | None:
    """Which samples a formula is held against: rows spread over all, the first examples, or a whole batch.

    None where there are none, or so many numbers that looking at them would be felt.
    """
    count = len(_samples(formula, values))
    if not values.numel():
        return None
    if formula.together in ("features", "running"):
        rows = max(min(_ROWS, _NUMBERS_OF_ROWS // values.shape[2]), 32)
        return slice(0, count, -(-count // rows))
    each = values[0].numel()
    if formula.together in ("batch", "graph"):
        return slice(0, count, 1) if count * each <= _MOST_NUMBERS_OF_BATCH else None
    count = min(count, _EXAMPLES, max(_NUMBERS_OF_EXAMPLES // each, 1))
    return slice(0, count, 1) if each <= _MOST_NUMBERS_OF_EXAMPLE else None
