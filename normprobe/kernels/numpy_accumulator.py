"""An accumulator on the CPU without the extension: torch measures, numpy adds up.

What an accumulator holds is an array of a few hundred numbers per field, on which the calls are the cost, and
numpy's calls cost a third of torch's. On the CPU there is nothing to wait for, so kernels are chosen by what
comes out, and new extremes are said at once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normprobe.kernels import chunked, few_rows, reference
from normprobe.kernels.accumulator import mask_of, picked, sent
from normprobe.kernels.choice import Choice
from normprobe.kernels.few_rows import FewRows
from normprobe.kernels.moments import Moments, merge
from normprobe.kernels.types import Extremes, Measured, SampleMoments, Totals

_SAMPLE_FIELDS = SampleMoments.__match_args__
_CPU = torch.device("cpu")

_MOST_WAITING = 8
"""Of so many rows the numbers take as much memory as their moments."""


class NumpyAccumulator:
    """An accumulator as numpy arrays; see `normprobe.kernels.types.Accumulator`.

    Attributes:
        state: None: only the extension has one.
    """

    state = None

    def __init__(self, features: int) -> None:
        self._features, self._begun = Moments.empty(features), False
        # Few rows are merged once there are more: merging eight costs what merging one does.
        self._waiting: list[NDArray[np.float64]] = []
        self._count_waiting = 0
        self._kept = np.zeros((0, len(_SAMPLE_FIELDS)))
        # Kept rows are float32 until one comes that float32 cannot hold: memory is what they cost.
        self._raw: NDArray[Any] = np.zeros((0, features), np.float32)
        self._within_sum = self._within_count = self._nonfinite_masked = 0.0
        self._low, self._high, self._holds_nonfinite = np.inf, -np.inf, False

    def add(self, values: Tensor, choice: Choice) -> Extremes:
        """Measure and merge a tensor of shape (samples, rows, features)."""
        return self.merge(self.measure(values, choice), choice)

    def measure(self, values: Tensor, choice: Choice) -> Measured | FewRows:
        """Moments of a tensor of shape (samples, rows, features), and of the samples chosen of it."""
        values, choice = picked(values, choice)
        # A mask that leaves nothing out is None; of others the rows would have to be picked first.
        found = few_rows.measure(values, choice.keep) if choice.real is None else None
        if found is not None:
            return found
        given = values.to(_CPU), sent(choice, "keep", _CPU), mask_of(choice)
        return _in_numpy(chunked.measure(*given, prior_mean=self._prior_mean()) or reference.measure(*given))

    def _prior_mean(self) -> Tensor | None:
        """Means of all tensors before, near which those of the next one may be; None of the first."""
        # Rows that wait are older than the tensor that asks, and may be all there is so far.
        self._merge_waiting()
        return torch.from_numpy(self._features.mean) if self._begun else None

    def merge(self, found: Measured | FewRows, choice: Choice) -> Extremes:
        """Add the moments of a tensor."""
        if len(choice.slots):
            kept = np.stack([getattr(found.kept, name) for name in _SAMPLE_FIELDS], 1)
            self._kept = _put(self._kept, kept, choice.slots)
        self._within_sum += float(found.within_sum)
        self._begun = True
        if isinstance(found, FewRows):
            self._within_count += len(found.numbers)
            self._wait(found.numbers)
            low, high = found.numbers.item(found.minimum_at), found.numbers.item(found.maximum_at)
            return self._new_extremes((low, found.minimum_at), (high, found.maximum_at), choice)
        self._within_count += float(found.within_count)
        self._nonfinite_masked += float(found.nonfinite_masked)
        self._features = merge(self._features, found.features)
        # Without a number there is no extreme, nor a feature that could have it.
        if len(found.features.count) == 0 or choice.picked.samples == 0:
            return Extremes(None, None)
        low, high = float(found.features.minimum.min()), float(found.features.maximum.max())
        extremes = self._new_extremes((low, int(found.minimum_at)), (high, int(found.maximum_at)), choice)
        if self._holds_nonfinite or not found.features.nonfinite.any():
            return extremes
        self._holds_nonfinite = True
        return extremes._replace(nonfinite=(np.nan, -1, 0))

    def _wait(self, rows: NDArray[np.float64]) -> None:
        """Let rows wait for others, with which they are merged at the cost of one."""
        self._waiting.append(rows)
        self._count_waiting += len(rows)
        if self._count_waiting >= _MOST_WAITING:
            self._merge_waiting()

    def _merge_waiting(self) -> None:
        if self._waiting:
            self._features = merge(self._features, few_rows.moments_of(np.concatenate(self._waiting)))
            self._waiting, self._count_waiting = [], 0

    def _new_extremes(self, low: tuple[float, int], high: tuple[float, int], choice: Choice) -> Extremes:
        """Compare a tensor's extremes, and where they are, with those so far."""
        width, before = self._raw.shape[1], (self._low, self._high)
        self._low, self._high = min(self._low, low[0]), max(self._high, high[0])
        return Extremes(
            _held(low, width, choice) if low[0] < before[0] else None,
            _held(high, width, choice) if high[0] > before[1] else None,
        )

    def keep(self, values: Tensor, choice: Choice) -> None:
        """Keep the raw rows chosen of ``values``, shape (samples, rows, features)."""
        rows = values.flatten(0, 1).index_select(0, sent(choice, "raw", values.device))
        if values.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            self._raw = self._raw.astype(np.float64, copy=False)
        dtype = torch.float32 if self._raw.dtype == np.float32 else torch.float64
        self._raw = _put(self._raw, rows.to(dtype).numpy(force=True), choice.raw_slots)

    def totals(self, slots: int, raw_slots: int) -> Totals:
        """Everything so far."""
        self._merge_waiting()
        return Totals(
            self._features.map(np.copy),
            self._kept[:slots].copy(),
            self._raw[:raw_slots].copy(),
            self._within_sum,
            int(self._within_count),
            int(self._nonfinite_masked),
        )

    def nbytes(self) -> int:
        """How many bytes it takes."""
        held = (*vars(self._features).values(), *self._waiting, self._kept, self._raw)
        return sum(array.nbytes for array in held)


def _held(end: tuple[float, int], width: int, choice: Choice) -> tuple[float, int, int]:
    """A value with the sample and the feature that hold it."""
    sample, feature = divmod(end[1], width)
    return end[0], sample if choice.among is None else int(choice.among[sample]), feature


def _in_numpy(found: Measured) -> Measured:
    """What was measured, its tensors as arrays that share their memory."""
    kept = (getattr(found.kept, name).numpy() for name in _SAMPLE_FIELDS)
    return replace(found, features=found.features.map(Tensor.numpy), kept=SampleMoments(*kept))


def _put(held: NDArray[Any], rows: NDArray[Any], slots: NDArray[np.int64]) -> NDArray[Any]:
    """The rows in their slots, in as much more room as that needs."""
    if len(slots) == 0:
        return held
    size = int(slots.max()) + 1
    if size > len(held):
        # Twice the room each time it runs out, so that growing costs a constant per kept sample.
        room = np.zeros((max(size, 2 * len(held)) - len(held), held.shape[1]), held.dtype)
        held = np.concatenate([held, room])
    held[slots] = rows
    return held
