"""The compiled kernel: plain strided tensors on the CPU, in one pass at memory speed.

Its sources are in ``csrc``. The extension reads a tensor's own memory under the interpreter's lock and gives
that up while it measures, so whoever calls it holds the probe's lock
(`normprobe.capture.forwards.current_forward.new_lock`).
"""

from __future__ import annotations

import os

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from normprobe.kernels._cpu import (
    MOMENT_FIELDS,
    AccumulatorState,
    BatchMoments,
    CachedPlan,
    CompiledChoice,
    ContainerHook,
    CurrentForward,
    Distribution,
    ForwardState,
    LayerHook,
    Lock,
    PlanSlot,
    RecentMoments,
    SiteCounters,
    configure,
    hashes,
    set_empty_hook,
    versions,
)
from normprobe.kernels.choice import Choice
from normprobe.kernels.moments import Moments
from normprobe.kernels.types import AxisRoles, Extremes, Measured, SampleMoments, Totals

_TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
__all__ = [
    "SMALL",
    "CachedPlan",
    "CompiledAccumulator",
    "ContainerHook",
    "CurrentForward",
    "Distribution",
    "ForwardState",
    "LayerHook",
    "Lock",
    "PlanSlot",
    "RecentMoments",
    "SiteCounters",
    "compiled_choice",
    "hashes",
    "measure",
    "plain",
    "set_empty_hook",
    "threads",
    "versions",
]

_SAMPLE_FIELDS = len(SampleMoments.__match_args__)
SMALL = 1 << 14
"""Numbers below which one thread is faster than waking others."""

_forked = False

# DLPack's table of C functions, from torch 2.10 on; without it tensors are read attribute by attribute.
_DLPACK_TABLE = getattr(Tensor, "__dlpack_c_exchange_api__", None)
TORCH_HANDLES = (
    _TYPES,
    (Tensor, nn.Parameter),
    (torch._C._current_graph_task_id, torch.is_grad_enabled, torch.is_inference_mode_enabled),
    None if os.environ.get("NORMPROBE_PRIVATE_TORCH") == "0" else _DLPACK_TABLE,
)
"""Parts of torch that the extension reads and calls: dtypes, plain tensor types, modes, DLPack table."""
configure(*TORCH_HANDLES)


def _measure_alone() -> None:
    """Measure with one thread in a child process: OpenMP's others do not survive a fork."""
    global _forked  # noqa: PLW0603
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_measure_alone)


def threads() -> int:
    """How many threads may measure one tensor."""
    return 1 if _forked else torch.get_num_threads()


def compiled_choice(choice: Choice) -> CompiledChoice:
    """A choice as the extension takes it, made once: its arrays are copied."""
    made: CompiledChoice | None = choice.prepared.get("compiled")
    if made is None:
        counted = choice.counted
        real = None if counted is None else np.ascontiguousarray(counted)
        kept = (choice.keep, choice.slots, choice.raw, choice.raw_slots)
        made = choice.prepared["compiled"] = CompiledChoice(choice.samples, choice.rows, real, *kept)
    return made


class CompiledAccumulator:
    """An accumulator in the extension; see `normprobe.kernels.types.Accumulator`.

    Attributes:
        state: the extension's own, which also reads tensors by their own strides.
    """

    def __init__(self, features: int, axis_roles: AxisRoles) -> None:
        unbatched = -1 if axis_roles.unbatched is None else axis_roles.unbatched
        self.state = AccumulatorState(
            features, axis_roles.axis, axis_roles.trailing, unbatched, axis_roles.by_example
        )
        self._features, self._axis_roles = features, axis_roles
        # Reads what was arranged as (samples, rows, features), however the site's own tensors read.
        self._reader = AccumulatorState(features, -1, 1, -1, True)

    def add(self, values: Tensor, choice: Choice) -> Extremes:
        """Measure and merge a tensor of shape (samples, rows, features)."""
        return self.merge(self.measure(values, choice), choice)

    def merge(self, found: BatchMoments, choice: Choice) -> Extremes:
        """Add the moments of a tensor that were measured with this choice."""
        return Extremes(*(self.state.add(found, compiled_choice(choice)) or (None, None)))

    def keep(self, values: Tensor, choice: Choice) -> None:
        """Keep the raw rows chosen of ``values``, shape (samples, rows, features)."""
        rows = values.flatten(0, 1)[torch.from_numpy(choice.raw)]
        # Only the chosen rows are copied, so they are numbered anew; their slots stay.
        copied = Choice(len(rows), 1, raw=np.arange(len(rows)), raw_slots=choice.raw_slots)
        self.state.keep(_as_read(plain(rows), self._axis_roles), compiled_choice(copied))

    def totals(self, slots: int, raw_slots: int) -> Totals:
        """Everything so far."""
        columns, kept, within_sum, within_count, masked, raw, size = self.state.fields(slots, raw_slots)
        # Copies: the extension's answer is bytes, whose arrays numpy will not let anyone write to.
        arrays = np.frombuffer(columns).reshape(len(MOMENT_FIELDS), self._features).copy()
        return Totals(
            Moments(**dict(zip(MOMENT_FIELDS, arrays, strict=True))),
            np.frombuffer(kept).reshape(slots, _SAMPLE_FIELDS).copy(),
            np.frombuffer(raw, np.float32 if size == 4 else np.float64)
            .reshape(raw_slots, self._features)
            .copy(),
            within_sum,
            int(within_count),
            int(masked),
        )

    def nbytes(self) -> int:
        """How many bytes it takes."""
        return self.state.nbytes()

    def measured(self, values: Tensor, choice: Choice) -> Measured:
        """Moments of one tensor, which must be the first added; its samples in the order of their slots."""
        found = self.measure(values, choice)
        at = [
            0 if held is None else held[1] * self._features + held[2]
            for held in self.state.add(found, compiled_choice(choice)) or (None, None)
        ]
        totals = self.totals(len(choice.slots), 0)
        return Measured(
            features=totals.features.map(torch.from_numpy),
            kept=SampleMoments(*torch.from_numpy(totals.kept).unbind(1)),
            within_sum=torch.tensor(totals.within_sum, dtype=torch.float64),
            within_count=torch.tensor(totals.within_count, dtype=torch.float64),
            minimum_at=torch.tensor(at[0]),
            maximum_at=torch.tensor(at[1]),
            nonfinite_masked=torch.tensor(totals.nonfinite_masked, dtype=torch.float64),
        )

    def measure(self, values: Tensor, choice: Choice) -> BatchMoments:
        """Moments of a tensor of shape (samples, rows, features), and of the samples chosen of it."""
        tensor = plain(values)
        found = self._reader.measure(tensor, compiled_choice(choice), threads(), SMALL)
        if found is None:
            # Strides the extension does not walk: one copy is cheaper than leaving the tensor out.
            found = self._reader.measure(tensor.contiguous(), compiled_choice(choice), threads(), SMALL)
        assert found is not None
        return found


def _as_read(rows: Tensor, axis_roles: AxisRoles) -> Tensor:
    """Rows (rows, features) as a tensor whose axes, all others of size 1, read so by these roles."""
    if axis_roles.trailing > 1:
        return rows.reshape(len(rows), *[1] * (axis_roles.trailing - 1), -1)
    axis = axis_roles.axis
    count = max(2, axis + 1, -axis)
    count += count == axis_roles.unbatched  # a batch axis would be put in front
    axis %= count
    # The batch is the first axis, or the one behind the features where these are the first.
    shape = [1] * count
    shape[0 if axis else 1], shape[axis] = rows.shape
    return (rows if axis else rows.T).reshape(shape)


def plain(values: Tensor) -> Tensor:
    """The tensor on the CPU, in a type that the extension reads."""
    values = values.detach()
    if values.device.type != "cpu":
        values = values.cpu()
    if values.dtype not in _TYPES:
        values = values.to(torch.float64)
    if type(values) is not Tensor or values.is_neg():
        # A subclass may hold its numbers elsewhere, and a lazy minus sign is not in memory.
        numbers: NDArray[np.float64] = np.array(values.to(torch.float64).resolve_neg().numpy())
        values = torch.from_numpy(numbers)
    return values


def measure(values: Tensor, keep: Tensor, real: Tensor | None = None) -> Measured:
    """Measure ``values`` (samples, rows, features) on its own; see `normprobe.kernels.reference.measure`."""
    order = np.argsort(keep.numpy(), kind="stable")
    mask = None if real is None else real.numpy()
    samples, rows, features = values.shape
    choice = Choice(samples, rows, mask, keep.numpy()[order], order)
    return CompiledAccumulator(features, AxisRoles()).measured(values, choice)
