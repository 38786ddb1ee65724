"""What a residual block adds to the stream: its output - its input."""

from __future__ import annotations

import torch
from torch import Tensor

from normprobe.capture.calls.readings import BlockReadings, Held, Readings

REWRITTEN = "what it adds is not measured where it writes to the tensor that it reads"


def stream_before(held: Held | None, readings: Readings) -> Tensor | None:
    """What a block read, after its call; None if it is not known any more.

    Args:
        held: the tensor as it was before the call, with a copy of its numbers at a first call.
        readings: the block's.
    """
    if held is None or not held.is_as_it_was():
        return None
    if not held.tensor.is_inference() or not isinstance(readings, BlockReadings):
        return held.tensor
    # One made in inference mode counts no versions: then the copy of a first call tells.
    if held.clone is not held.tensor and not held.tensor.is_nested:
        same = torch.isclose(held.clone, held.tensor, rtol=0.0, atol=0.0, equal_nan=True).all()
        readings.rewrites = readings.rewrites or not bool(same)
    return None if readings.rewrites else held.tensor


def branch_of(before: Tensor, after: Tensor) -> Tensor:
    """Output - input, in float32 at least: half types would round what a stream of large numbers is given."""
    before, after = before.detach(), after.detach()
    dtype = torch.promote_types(torch.promote_types(before.dtype, after.dtype), torch.float32)
    # The other operand is promoted as they are subtracted.
    return after.to(dtype) - before.to(after.device)
