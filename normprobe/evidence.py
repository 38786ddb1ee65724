"""One call of a norm held against the ways in which norms work: which of them make its output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from normprobe.affine import Affine, affines
from normprobe.readings import Reading, normalized, sample_of
from normprobe.views import View, arrange, eps_of

AGREES = 0.02
"""Largest relative error of a formula that counts as reproducing a call; bfloat16 rounds by 0.004."""
_ROWS_TO_FIT = 16
_GATES: tuple[Callable[[Tensor], Tensor], ...] = (
    functional.silu,
    torch.sigmoid,
    functional.gelu,
    lambda gate: gate,
)

_BARE = Affine(None, None, 0.0)


@dataclass(frozen=True)
class Fit:
    """A way of working that agrees with a call.

    Attributes:
        reading: which numbers are normalized together.
        offset: what is added to the stored weight before scaling; None where the weight plays another part.
        error: the relative error of what it makes against the output.
        unscaled: the stored weight scales the input, not what is normalized.
    """

    reading: Reading
    offset: float | None
    error: float
    unscaled: bool = False


@dataclass(frozen=True, eq=False)
class Arrays:
    """One call as a reading sees it, each of shape (samples, rows, features) in float64.

    Attributes:
        x: the input.
        y: the output.
        gates: the other tensors of the call that have as many numbers.
        time: how many steps the rows consist of, where there are several.
    """

    x: Tensor
    y: Tensor
    gates: tuple[Tensor, ...]
    time: int | None


class Evidence:
    """One call of a norm.

    Attributes:
        module: the norm.
        mute: no reading asked so far found numbers that can tell one way of working from another.
        short: there were too few rows to fit any scale and shift.
    """

    def __init__(
        self, module: nn.Module, before: Tensor, after: Tensor, arguments: Iterable[object] = ()
    ) -> None:
        self.module = module
        self._before, self._after = before, after.reshape(before.shape)
        floats = [a for a in arguments if isinstance(a, Tensor) and a.dtype.is_floating_point]
        self._gates = [a.reshape(before.shape) for a in floats[1:] if a.numel() == before.numel()]
        given = eps_of(module)
        self._eps = 1e-6 if given is None else given
        self._rounding = torch.finfo(after.dtype).eps / 4
        self._blur = 1e-4 if torch.finfo(before.dtype).eps < 1e-5 else AGREES
        self._arrays: dict[tuple[object, ...], Arrays | None] = {}
        self.mute, self.short = True, True

    @cached_property
    def axes(self) -> dict[int, int]:
        """The axes of its input that may hold the features and their sizes, the last first.

        A stored tensor of as many numbers as an axis is long says that it is one of those.
        """
        sizes = self._before.shape
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
        width = max(self._stored, default=self._before.shape[-1] if self._before.dim() else 1)
        if isinstance(size, int) and size > 0 and width % size == 0:
            return width // size
        counts = [getattr(self.module, name, None) for name in ("num_groups", "n_groups", "groups")]
        return next((count for count in counts if isinstance(count, int) and count > 0), 1)

    @property
    def stored_statistics(self) -> bool:
        """The module holds two vectors that are no parameters, as for a mean and a spread found earlier."""
        widths = [tensor.numel() for tensor in self.module.buffers(recurse=False) if tensor.dim() == 1]
        return any(widths.count(size) > 1 for size in self.axes.values())

    def arrays(self, reading: Reading) -> Arrays | None:
        """The numbers of the call that can tell about a reading; None if there are none."""
        key = (reading.axis, reading.trailing, reading.sample, reading.together == "batch")
        if key not in self._arrays:
            self._arrays[key] = self._arranged(reading)
        found = self._arrays[key]
        self.mute = self.mute and found is None
        return found

    def _arranged(self, reading: Reading) -> Arrays | None:
        view = reading.of(View("norm"))
        inner = arrange(view, self._before).inner
        parts = [
            sample_of(reading, arrange(view, tensor).values)
            for tensor in (self._before, self._after, *self._gates)
        ]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts) or not known[0].numel():
            return None
        x, y = known[0].flatten(1), known[1].flatten(1)
        telling = x.isfinite().all(1) & y.isfinite().all(1)
        if reading.together not in ("running", "batch"):
            telling &= x.amax(1) - x.amin(1) > self._blur * x.abs().amax(1)
        if not telling.any() or (reading.together == "batch" and not telling.all()):
            return None
        x, y, *gates = (part[telling] for part in known)
        return Arrays(x, y, tuple(gates), inner[0] if len(inner) else None)

    def plain(self, readings: Iterable[Reading]) -> Iterator[Fit]:
        """Normalized, scaled and shifted by what the module stores."""
        for reading, arrays, values in self._normalized(readings):
            for affine in affines(self.module, values.shape[2]):
                yield Fit(reading, affine.offset, self._error(affine.apply(values), arrays.y, affine))

    def gated(self, readings: Iterable[Reading]) -> Iterator[Fit]:
        """The same with another tensor of the call: multiplied before or after, or added before."""
        for reading in readings:
            arrays = self.arrays(reading)
            for gate in () if arrays is None else arrays.gates:
                yield from self._gated(reading, arrays, gate)

    def _gated(self, reading: Reading, arrays: Arrays | None, gate: Tensor) -> Iterator[Fit]:
        assert arrays is not None
        for act in (*_GATES, None):
            moved = arrays.x + gate if act is None else arrays.x * act(gate)
            inside = normalized(reading, moved, self._eps, self.module, arrays.time)
            outside = normalized(reading, arrays.x, self._eps, self.module, arrays.time)
            if inside is None or outside is None:
                return
            for affine in affines(self.module, inside.shape[2]):
                yield Fit(reading, affine.offset, self._error(affine.apply(inside), arrays.y, affine))
                if act is not None:
                    scaled = affine.apply(outside) + (0.0 if affine.shift is None else affine.shift)
                    yield Fit(reading, affine.offset, self._error(scaled * act(gate), arrays.y, _BARE))

    def scaled_first(self, readings: Iterable[Reading]) -> Iterator[Fit]:
        """The input scaled by the weight, then normalized."""
        for reading in readings:
            arrays = self.arrays(reading)
            for affine in () if arrays is None else affines(self.module, arrays.x.shape[2]):
                assert arrays is not None
                made = normalized(reading, affine.apply(arrays.x), self._eps, self.module, arrays.time)
                if made is not None and affine.scale is not None:
                    yield Fit(reading, 0.0, self._error(made, arrays.y, affine), unscaled=True)

    def fitted(self, readings: Iterable[Reading]) -> Iterator[Fit]:
        """Normalized, then scaled and shifted by any numbers, one pair per feature (least squares)."""
        for reading, arrays, values in self._normalized(readings):
            n, y = values.flatten(0, 1), arrays.y.flatten(0, 1)
            self.short = self.short and len(n) < _ROWS_TO_FIT
            if len(n) >= _ROWS_TO_FIT:
                yield Fit(reading, None, _residual(n, y))

    def moments(self, readings: Iterable[Reading]) -> Iterator[Fit]:
        """Whatever becomes of the input: the output, unscaled, has unit second moment where it should."""
        readings = (reading for reading in readings if reading.together != "running")
        for reading, arrays, values in self._normalized(readings):
            for affine in affines(self.module, values.shape[2]):
                y = arrays.y if affine.shift is None else arrays.y - affine.shift
                y = y if affine.scale is None else y / affine.scale
                again = normalized(reading, y, 0.0, self.module, arrays.time)
                if len(y) > 1 and again is not None and bool(y.isfinite().all()):
                    yield Fit(reading, affine.offset, self._error(again, y, _BARE))

    def passed(self) -> float:
        """The least error of the input scaled and shifted by what the module stores, or left as it is."""
        errors = [1.0]
        for axis in self.axes:
            arrays = self.arrays(Reading("norm", axis))
            for affine in () if arrays is None else affines(self.module, arrays.x.shape[2]):
                assert arrays is not None
                errors.append(self._error(affine.apply(arrays.x), arrays.y, affine))
        return min(errors)

    def _normalized(self, readings: Iterable[Reading]) -> Iterator[tuple[Reading, Arrays, Tensor]]:
        for reading in readings:
            arrays = self.arrays(reading)
            if arrays is not None:
                values = normalized(reading, arrays.x, self._eps, self.module, arrays.time)
                if values is not None:
                    yield reading, arrays, values

    def _error(self, made: Tensor, y: Tensor, affine: Affine) -> float:
        """The relative error of ``made``, before the shift; 0 where rounding hides what it should make."""
        target = y if affine.shift is None else y - affine.shift
        size = max(float(target.norm()), float(made.norm()))
        if size <= self._rounding * float(y.norm()) / AGREES:
            return 0.0
        return float((target - made).norm()) / size


def _residual(n: Tensor, y: Tensor) -> float:
    """What is left of y (rows, features) after its best line in n, as a part of its spread per feature."""
    d, e = n - n.mean(0), y - y.mean(0)
    slope = (d * e).sum(0) / d.square().sum(0).clip(1e-30)
    spread = float(e.norm())
    return float((e - slope * d).norm()) / spread if spread else 1.0
