"""One call of a norm as a way of working sees it: samples, rows and features in float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from normprobe.layers.norms.affine import Affine, affines
from normprobe.layers.norms.formulas import Formula
from normprobe.layers.to_rows import arrange
from normprobe.layers.view import View

AGREES = 0.02
"""Largest relative error of a formula that counts as reproducing a call; bfloat16 rounds by 0.004."""
_ROWS = 256
_EXAMPLES = 8
_IN_ROWS, _IN_EXAMPLES, _IN_EXAMPLE, _IN_BATCH = 1 << 17, 1 << 18, 1 << 20, 1 << 21
"""How many numbers are looked at: a first call must not be felt."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """One call as a reading sees it, each of shape (samples, rows, features) in float64.

    Attributes:
        x: the input.
        y: the output.
        gates: the other tensors of the call that have as many numbers.
        time: how many steps the rows consist of, where there are several.
        affines: the ways in which the module may scale and shift these samples.
    """

    x: Tensor
    y: Tensor
    gates: tuple[Tensor, ...]
    time: int | None
    affines: tuple[Affine, ...]


class NormCall:
    """One call of a norm.

    Attributes:
        module: the norm.
        before: its input, as it was before the call.
        after: its output, in the shape of the input.
    """

    def __init__(
        self, module: nn.Module, before: Tensor, after: Tensor, arguments: Iterable[object] = ()
    ) -> None:
        self.module, self.before, self.after = module, before, after.reshape(before.shape)
        floats = [a for a in arguments if isinstance(a, Tensor) and a.dtype.is_floating_point]
        self._gates = [a.reshape(before.shape) for a in floats[1:] if a.numel() == before.numel()]
        self._blur = 1e-4 if torch.finfo(before.dtype).eps < 1e-5 else AGREES
        self._known: dict[tuple[object, ...], Arrays | None] = {}

    @cached_property
    def axes(self) -> dict[int, int]:
        """The axes of its input that may hold the features and their sizes, the last first.

        A stored tensor of as many numbers as an axis is long says that it is one of those.
        """
        sizes = self.before.shape
        every = {axis: sizes[axis] for axis in (-1, *range(1, len(sizes) - 1)) if sizes}
        fitting = {axis: size for axis, size in every.items() if size in self._stored}
        return fitting or every

    @cached_property
    def _stored(self) -> set[int]:
        """The sizes of the vectors that the module stores."""
        own = (*self.module.parameters(recurse=False), *self.module.buffers(recurse=False))
        return {tensor.numel() for tensor in own if tensor.numel() > 1}

    @cached_property
    def groups(self) -> int:
        """How many groups the module says its features fall into."""
        size = getattr(self.module, "group_size", None)
        width = max(self._stored, default=self.before.shape[-1] if self.before.dim() else 1)
        if isinstance(size, int) and size > 0 and width % size == 0:
            return width // size
        counts = [getattr(self.module, name, None) for name in ("num_groups", "n_groups", "groups")]
        return next((count for count in counts if isinstance(count, int) and count > 0), 1)

    @property
    def stored_statistics(self) -> bool:
        """The module holds two vectors that are no parameters, as for a mean and a spread found earlier."""
        widths = [tensor.numel() for tensor in self.module.buffers(recurse=False) if tensor.dim() == 1]
        return any(widths.count(size) > 1 for size in self.axes.values())

    def arrays(self, formula: Formula) -> Arrays | None:
        """The numbers of the call that can tell about a reading; None if there are none."""
        how = "example" if formula.together == "past" else formula.together
        key = (formula.axis, formula.trailing, how)
        if key not in self._known:
            self._known[key] = self._arranged(formula)
        return self._known[key]

    def _arranged(self, formula: Formula) -> Arrays | None:
        view = formula.of(View("norm"))
        whole = [arrange(view, tensor) for tensor in (self.before, self.after, *self._gates)]
        picked = _picked(formula, whole[0].values)
        if picked is None:
            return None
        parts = [
            _rows(formula, arranged.values)[picked].detach().cpu().to(torch.float64) for arranged in whole
        ]
        x, y = parts[0].flatten(1), parts[1].flatten(1)
        telling = x.isfinite().all(1) & y.isfinite().all(1)
        if formula.together not in ("running", "batch"):
            telling &= x.amax(1) - x.amin(1) > self._blur * x.abs().amax(1)
        if not telling.any() or (formula.together == "batch" and not telling.all()):
            return None
        x, y, *gates = (part[telling] for part in parts)
        inner = whole[0].inner
        index = torch.arange(picked.start, picked.stop, picked.step)[telling]
        return Arrays(x, y, tuple(gates), inner[0] if len(inner) else None, self._scales(x.shape[2], index))

    def _scales(self, width: int, index: Tensor) -> tuple[Affine, ...]:
        """What may scale the samples of this index: the same for all, or one row of weights per head."""
        sizes = self.before.shape
        heads = (
            sizes[-2] if len(sizes) > 2 and sizes[-1] == width and sizes[-2] * width in self._stored else 1
        )
        found = affines(self.module, heads * width)
        return tuple(affine if heads == 1 else affine.of_heads(heads, index) for affine in found)


def _rows(formula: Formula, values: Tensor) -> Tensor:
    """Samples of one row each where a row is all that counts."""
    return values.flatten(0, 1)[:, None] if formula.together in ("features", "running") else values


def _picked(formula: Formula, values: Tensor) -> slice | None:
    """Which samples are needed to see the reading: rows spread over all, a few examples, or everything."""
    count = len(_rows(formula, values))
    if not values.numel():
        return None
    if formula.together in ("features", "running"):
        rows = max(min(_ROWS, _IN_ROWS // values.shape[2]), 32)
        return slice(0, count, -(-count // rows))
    each = values[0].numel()
    if formula.together == "batch":
        return slice(0, count, 1) if count * each <= _IN_BATCH else None
    count = min(count, _EXAMPLES, max(_IN_EXAMPLES // each, 1))
    return slice(0, count, 1) if each <= _IN_EXAMPLE else None
