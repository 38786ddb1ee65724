"""A tensor as a view reads it: arranged as samples x rows x features, or the sizes of that alone.

`extent_of` needs no data, so that what depends on sizes only (which sample is which, what is kept) can be
decided, and cached, before the tensor is touched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normprobe.errors import ViewError
from normprobe.layers.view import View


@dataclass(frozen=True)
class Arranged:
    """A tensor as a view reads it.

    Attributes:
        values: shape (samples, rows, features).
        leading: the sizes of the axes that number the samples, product = samples.
        inner: the sizes of the axes that number the rows within a sample, product = rows.
    """

    values: Tensor
    leading: tuple[int, ...]
    inner: tuple[int, ...]


class Extent(NamedTuple):
    """The sizes of a tensor as a view reads it: of the axes that number samples, rows and features."""

    leading: tuple[int, ...]
    inner: tuple[int, ...]
    features: int

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return math.prod(self.leading)

    @property
    def rows(self) -> int:
        """How many rows each of them has."""
        return math.prod(self.inner)


def extent_of(view: View, shape: Sequence[int]) -> Extent:
    """The sizes that `arrange` would give for a tensor of this shape.

    Raises:
        ViewError: the tensor has too few axes for the view.
    """
    batched = (1, *shape) if view.unbatched == len(shape) else tuple(shape)
    axis = view.axis if view.axis >= 0 else len(batched) + view.axis
    if not 0 <= axis < len(batched) or len(batched) < view.trailing:
        raise ViewError(
            f"a tensor of shape {tuple(shape)} has no feature axis {view.axis} ({view.trailing} wanted)"
        )
    first, end = (len(batched) - view.trailing, len(batched)) if view.trailing > 1 else (axis, axis + 1)
    rest = batched[:first] + batched[end:]
    # A position is one row, so every other axis numbers samples; of an example all axes but the batch's
    # number its rows (pixels).
    n_leading = len(rest) if view.sample == "position" else min(1, len(rest))
    return Extent(rest[:n_leading], rest[n_leading:], math.prod(batched[first:end]))


def arrange(view: View, tensor: Tensor) -> Arranged:
    """Arrange a tensor as (samples, rows, features), without a copy where its strides allow that.

    Raises:
        ViewError: the tensor has too few axes for the view.
    """
    extent = extent_of(view, tensor.shape)
    if view.unbatched == tensor.dim():
        tensor = tensor.unsqueeze(0)
    if view.trailing > 1:
        tensor = tensor.flatten(-view.trailing)
    elif view.axis != -1:
        tensor = tensor.movedim(view.axis, -1)
    values = tensor.reshape(extent.samples, extent.rows, extent.features)
    return Arranged(values, extent.leading, extent.inner)


def by_graph(rows: Tensor, graphs: Tensor | None) -> tuple[Tensor, Any]:
    """Rows (nodes, features) as (graphs, most nodes, features), filled up with zeros, and which are real.

    Args:
        rows: the rows of all graphs.
        graphs: which graph each is of, whole numbers in any order; None for one graph.

    Returns:
        The values, and a bool array (graphs, most nodes), True where a graph has so many nodes.
    """
    index = torch.zeros(len(rows), dtype=torch.int64) if graphs is None else graphs.detach().cpu()
    _, graph, count = torch.unique(index, return_inverse=True, return_counts=True)
    order = torch.argsort(graph, stable=True)
    starts = (count.cumsum(0) - count)[graph[order]]
    node = torch.arange(len(rows)) - starts
    # Filled up to a full array: graphs differ in size, and the kernels read one block with a mask.
    values = rows.new_zeros(len(count), int(count.max()) if len(count) else 0, rows.shape[1])
    graph, node, order = (numbers.to(rows.device) for numbers in (graph[order], node, order))
    values[graph, node] = rows[order]
    real = torch.arange(values.shape[1])[None] < count[:, None]
    return values, real.numpy()
