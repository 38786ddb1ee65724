"""What of a whole tensor this process has, where it is spread over processes as a DTensor.

A DTensor says it itself: for each axis of its mesh whether it is replicated along it, cut along an axis, or
whether its numbers are summands. Of summands nothing is measured before torch has added them up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from normprobe.layers.view import View
from normprobe.tables.records import Placement

SUMMANDS = "a call on a DTensor of summands, which no hook sees added up, is left out"
UNKNOWN = "a call on a DTensor that is spread over processes in another way is left out"


@dataclass(frozen=True)
class Sharding:
    """The part of a tensor that this process has.

    Attributes:
        shape: the sizes of the whole tensor.
        ranges: by axis, from which entry to which it has, where it has not all.
        partial: whether its numbers are summands.
        known: whether the above says it all.
    """

    shape: tuple[int, ...]
    ranges: tuple[tuple[int, int, int], ...] = ()
    partial: bool = False
    known: bool = True

    def placement(self, view: View) -> Placement | str:
        """What the tables say of it; or why it cannot be measured."""
        if self.partial:
            return SUMMANDS
        axis = view.axis % len(self.shape)
        at_samples = [cut for cut in self.ranges if cut[0] != axis]
        at_features = [cut for cut in self.ranges if cut[0] == axis]
        last = len(self.shape) - 1
        plain = view.trailing == 1 and (axis in (last, 1)) and not view.graph
        if not self.known or not plain or (at_samples and at_features):
            return UNKNOWN
        if at_features:
            return Placement("features", at_features[0][1], self.shape[axis])
        if at_samples:
            # Rows within an example of a channel layer are no samples.
            samples = view.sample == "position" or all(cut[0] == 0 for cut in at_samples)
            return Placement("samples") if samples else UNKNOWN
        return Placement("replicated")


def is_distributed(tensor: Any) -> bool:
    """Whether a tensor is a DTensor; by its name, as the module that has them need not be loaded."""
    return type(tensor).__name__ == "DTensor"


def local_part(tensor: Tensor) -> tuple[Tensor, Sharding | None]:
    """What this process has of a tensor, and which part that is; None of one that is not spread."""
    if type(tensor).__name__ == "AsyncCollectiveTensor":
        return tensor.wait(), None  # type: ignore[attr-defined]
    if not is_distributed(tensor):
        return tensor, None
    spread: Any = tensor
    local = spread.detach().to_local()
    if type(local).__name__ == "AsyncCollectiveTensor":
        local = local.wait()
    return local, _sharding(spread, tuple(local.shape))


def part_given(tensor: Tensor, own: Tensor | None) -> tuple[Tensor, Sharding | None]:
    """What this process has of what a layer reads or gives.

    Args:
        tensor: the tensor, as hooks of others left it.
        own: what the layer itself gave, where that is a DTensor and hooks made it plain.
    """
    if own is None or not is_distributed(own):
        return local_part(tensor)
    given, sharding = local_part(own)
    # Summands are read where they were added up.
    return reduced(own, tensor) if sharding is not None and sharding.partial else (given, sharding)


def reduced(own: Any, result: Tensor) -> tuple[Tensor, Sharding | None]:
    """What hooks made of a DTensor of summands: the whole tensor, or an equal part of one of its axes."""
    local, sharding = local_part(result)
    if sharding is not None:
        return local, sharding
    whole, mesh = tuple(own.shape), own.device_mesh
    if tuple(local.shape) == whole:
        return local, Sharding(whole)
    cut = [axis for axis, (a, b) in enumerate(zip(local.shape, whole, strict=False)) if a != b]
    if mesh.ndim != 1 or len(cut) != 1 or local.dim() != len(whole):
        return local, Sharding(whole, known=False)
    start, stop = _chunk(0, whole[cut[0]], mesh.size(0), mesh.get_local_rank(0))
    known = stop - start == local.shape[cut[0]]
    return local, Sharding(whole, ((cut[0], start, stop),), known=known)


def _sharding(tensor: Any, local: tuple[int, ...]) -> Sharding:
    place, partial, known = tensor.device_mesh.get_coordinate(), False, True
    ranges: dict[int, tuple[int, int]] = {}
    whole = tuple(tensor.shape)
    for axis, placement in enumerate(tensor.placements):
        if placement.is_partial():
            partial = True
        elif placement.is_shard():
            dim = placement.dim % len(whole)
            start, stop = ranges.get(dim, (0, whole[dim]))
            # A strided shard, as FSDP makes of one that is cut already, lies otherwise.
            known = known and type(placement).__name__ == "Shard" and place is not None
            ranges[dim] = _chunk(start, stop, tensor.device_mesh.size(axis), place[axis] if place else 0)
    known = known and all(stop - start == local[dim] for dim, (start, stop) in ranges.items())
    cuts = tuple((dim, *cut) for dim, cut in sorted(ranges.items()) if cut != (0, whole[dim]))
    return Sharding(whole, cuts, partial, known)


def _chunk(start: int, stop: int, parts: int, index: int) -> tuple[int, int]:
    """The entries of one of equal parts, as `torch.chunk` cuts: the last ones may be shorter, or empty."""
    size = -(-(stop - start) // parts)
    first = min(start + index * size, stop)
    return first, min(first + size, stop)
