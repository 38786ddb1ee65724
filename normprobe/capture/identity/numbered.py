"""The samples of one measured tensor, as what is measured of it later needs them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from normprobe.capture.identity.sample_numbers import Placement


@dataclass(frozen=True, eq=False, slots=True)
class Numbered:
    """Who the samples of a tensor are, without the tensor.

    Attributes:
        placement: their numbers, and which are padding.
        sizes: how many samples, and rows of each.
        repeat: which of the layer's calls in the forward it was.
        graphs: of a norm over graphs, which graph each row is of.
        nested: whether its samples are the rows of a NestedTensor's components.
    """

    placement: Placement
    sizes: tuple[int, int]
    repeat: int
    graphs: Tensor | None = None
    nested: bool = False
