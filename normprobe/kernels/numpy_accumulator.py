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
from normprobe.kernels.accumulator import mask_of, sent
from normprobe.kernels.choice import Choice
from normprobe.kernels.moments import Moments, merge
from normprobe.kernels.types import Extremes, Measured, SampleMoments, Totals

_SAMPLE_FIELDS = SampleMoments.__match_args__
_CPU = torch.device("cpu")


class NumpyAccumulator:
    """An accumulator as numpy arrays; see `normprobe.kernels.types.Accumulator`.

    Attributes:
        state: None: only the extension has one.
    """

    state = None

    def __init__(self, features: int) -> None:
        self._features, self._begun = Moments.empty(features), False
        self._kept = np.zeros((0, len(_SAMPLE_FIELDS)))
        # Kept rows are float32 until one comes that float32 cannot hold: memory is what they cost.
        self._raw: NDArray[Any] = np.zeros((0, features), np.float32)
        self._within_sum = self._within_count = self._nonfinite_masked = 0.0
        self._low, self._high = np.inf, -np.inf

    def add(self, values: Tensor, choice: Choice) -> Extremes:
        """Measure and merge a tensor of shape (samples, rows, features)."""
        return self.merge(self.measure(values, choice), choice)

    def measure(self, values: Tensor, choice: Choice) -> Measured:
        """Moments of a tensor of shape (samples, rows, features), and of the samples chosen of it."""
        found = few_rows.measure(values, choice.keep) if choice.real is None else None
        if found is not None:
            return found
        given = values.to(_CPU), sent(choice, "keep", _CPU), mask_of(choice)
        return _in_numpy(chunked.measure(*given, prior_mean=self._prior_mean()) or reference.measure(*given))

    def _prior_mean(self) -> Tensor | None:
        """Means of all tensors before, near which those of the next one may be; None of the first."""
        return torch.from_numpy(self._features.mean) if self._begun else None

    def merge(self, found: Measured, choice: Choice) -> Extremes:
        """Add the moments of a tensor."""
        if len(choice.slots):
            kept = np.stack([getattr(found.kept, name) for name in _SAMPLE_FIELDS], 1)
            self._kept = _put(self._kept, kept, choice.slots)
        self._within_sum += float(found.within_sum)
        self._within_count += float(found.within_count)
        self._nonfinite_masked += float(found.nonfinite_masked)
        self._features, self._begun = merge(self._features, found.features), True
        return self._update_extremes(found, choice)

    def _update_extremes(self, found: Measured, choice: Choice) -> Extremes:
        """Compare a tensor's extremes with those so far."""
        width = len(found.features.count)
        if width == 0 or choice.samples == 0:
            return Extremes(None, None)
        lowest, highest = (divmod(int(at), width) for at in (found.minimum_at, found.maximum_at))
        low = float(found.features.minimum[lowest[1]])
        high = float(found.features.maximum[highest[1]])
        news = Extremes(
            (low, *lowest) if low < self._low else None, (high, *highest) if high > self._high else None
        )
        self._low, self._high = min(self._low, low), max(self._high, high)
        return news

    def keep(self, values: Tensor, choice: Choice) -> None:
        """Keep the raw rows chosen of ``values``, shape (samples, rows, features)."""
        rows = values.flatten(0, 1).index_select(0, sent(choice, "raw", values.device))
        if values.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            self._raw = self._raw.astype(np.float64, copy=False)
        dtype = torch.float32 if self._raw.dtype == np.float32 else torch.float64
        self._raw = _put(self._raw, rows.to(dtype).numpy(force=True), choice.raw_slots)

    def totals(self, slots: int, raw_slots: int) -> Totals:
        """Everything so far."""
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
        return sum(array.nbytes for array in (*vars(self._features).values(), self._kept, self._raw))


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
