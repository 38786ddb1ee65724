"""An accumulator of plain torch for accelerators; twin of ``csrc/numerics/accumulator.h``.

Nothing here waits for the device: its numbers stay there until the recording is taken. Of the CPU, where
there is nothing to wait for, see `numpy_accumulator`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normprobe.kernels import reference
from normprobe.kernels.choice import Choice
from normprobe.kernels.moments import Moments, merge
from normprobe.kernels.types import Extremes, Measured, SampleMoments, Totals

_SAMPLE_FIELDS = len(SampleMoments.__match_args__)


class TorchAccumulator:
    """An accumulator as tensors on a device; see `normprobe.kernels.types.Accumulator`.

    Attributes:
        state: None: only the extension has one.
    """

    state = None

    def __init__(self, features: int, device: torch.device) -> None:
        self._device = device
        self._features = Moments.empty(features).map(lambda field: torch.from_numpy(field).to(device))
        self._scalars = torch.zeros(3, dtype=torch.float64, device=device)
        self._kept = torch.zeros(0, _SAMPLE_FIELDS, dtype=torch.float64, device=device)
        # Kept rows are float32 until one comes that float32 cannot hold: memory is what they cost.
        self._raw = torch.zeros(0, features, device=device)
        # Value, example, position and feature of the smallest, and of the largest value.
        none = [[torch.inf, -1, -1, -1], [-torch.inf, -1, -1, -1]]
        self._holders = torch.tensor(none, dtype=torch.float64, device=device)

    def add(self, values: Tensor, choice: Choice) -> Extremes:
        """Measure and merge a tensor of shape (samples, rows, features)."""
        return self.merge(self.measure(values, choice), choice)

    def measure(self, values: Tensor, choice: Choice) -> Measured:
        """Moments of a tensor of shape (samples, rows, features), and of the samples chosen of it."""
        # The device may not be asked what came out: it would have to be waited for.
        values, choice = picked(values.to(self._device), choice)
        return reference.measure(values, torch.from_numpy(choice.keep), mask_of(choice))

    def merge(self, found: Measured, choice: Choice) -> Extremes:
        """Add the moments of a tensor."""
        if len(choice.slots):
            kept = torch.stack([getattr(found.kept, name) for name in SampleMoments.__match_args__], 1)
            self._kept = put_in_slots(self._kept, kept, choice.slots)
        scalars = (found.within_sum, found.within_count, found.nonfinite_masked)
        self._scalars = self._scalars + torch.stack(scalars)
        self._update_holders(found, choice)
        self._features = merge(self._features, found.features)
        return Extremes(None, None)  # which are new, only waiting could tell

    def keep(self, values: Tensor, choice: Choice) -> None:
        """Keep the raw rows chosen of ``values``, shape (samples, rows, features)."""
        rows = values.to(self._device).flatten(0, 1).index_select(0, sent(choice, "raw", self._device))
        if values.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            self._raw = self._raw.to(torch.float64)
        self._raw = put_in_slots(self._raw, rows.to(self._raw.dtype), choice.raw_slots)

    def totals(self, slots: int, raw_slots: int) -> Totals:
        """Everything so far, read from the device."""
        within_sum, within_count, hidden = self._scalars.tolist()
        low, high = (
            (value, int(example), int(position), int(feature))
            for value, example, position, feature in self._holders.tolist()
        )
        return Totals(
            self._features.map(lambda field: field.cpu().numpy().copy()),
            self._kept[:slots].cpu().numpy().copy(),
            self._raw[:raw_slots].cpu().numpy().copy(),
            within_sum,
            int(within_count),
            int(hidden),
            (low, high),
        )

    def nbytes(self) -> int:
        """How many bytes it takes."""
        held = [*vars(self._features).values(), self._scalars, self._kept, self._raw, self._holders]
        return sum(tensor.nbytes for tensor in held)

    def _update_holders(self, found: Measured, choice: Choice) -> None:
        """Compare a tensor's extremes with those so far."""
        width = len(found.features.count)
        if width == 0 or choice.picked.samples == 0:
            return
        values = torch.stack([found.features.minimum.min(), found.features.maximum.max()])
        at = torch.stack([found.minimum_at, found.maximum_at])
        sign = torch.tensor([1.0, -1.0], dtype=torch.float64).to(self._device, non_blocking=True)
        better = sign * values < sign * self._holders[:, 0]
        sample, feature = at.div(width, rounding_mode="floor"), at % width
        if choice.among is not None:
            sample = sent(choice, "among", self._device).index_select(0, sample)
        who = [sent(choice, name, self._device).index_select(0, sample) for name in ("example", "position")]
        here = torch.stack([values, *(column.to(torch.float64) for column in (*who, feature))], 1)
        self._holders = torch.where(better[:, None], here, self._holders)


def picked(values: Tensor, choice: Choice) -> tuple[Tensor, Choice]:
    """The samples that a choice is about, and the choice of them; shape (samples, rows, features)."""
    if choice.among is None:
        return values, choice
    return values.index_select(0, sent(choice, "among", values.device)), choice.picked


def mask_of(choice: Choice) -> Tensor | None:
    """Which rows of the tensor count, on the CPU; None for all."""
    return None if choice.real is None else torch.from_numpy(np.ascontiguousarray(choice.real))


def sent(choice: Choice, name: str, device: torch.device) -> Tensor:
    """An array of the choice on the device, sent once and without waiting."""
    key = f"{name} on {device}"
    if key not in choice.prepared:
        choice.prepared[key] = torch.from_numpy(getattr(choice, name)).to(device, non_blocking=True)
    tensor: Tensor = choice.prepared[key]
    return tensor


def put_in_slots(held: Tensor, rows: Tensor, slots: NDArray[np.int64]) -> Tensor:
    """The rows in their slots, in as much more room as that needs."""
    if len(slots) == 0:
        return held
    size = int(slots.max()) + 1
    if size > len(held):
        # Twice the room each time it runs out, so that growing costs a constant per kept sample.
        room = torch.zeros(max(size, 2 * len(held)) - len(held), held.shape[1]).to(held)
        held = torch.cat([held, room])
    return held.index_copy(0, torch.from_numpy(slots).to(held.device, non_blocking=True), rows)
