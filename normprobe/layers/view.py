"""A view: how the tensors at a layer read as rows x features, and rows as samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

SampleUnit = Literal["position", "example"]
"""The same words as `vocabulary.SAMPLE_UNITS`, for the type checker."""

CONDITIONED = "its name, with a Linear inside for a scale"
"""The `View.unconfirmed` of a norm by its name that may compute its scale and shift by Linears inside."""

MATRIX = "its name"
"""The `View.unconfirmed` of a norm by its name that has a parameter with several axes longer than 1."""

EPS = "its eps"
"""The `View.unconfirmed` of a norm by nothing but an eps or running statistics."""

WRAPS = "the Linear inside it"
"""The `View.unconfirmed` of what may be an adapted Linear by nothing but what it holds."""

REPEATS = "that it may be called again and again"
"""The `View.unconfirmed` of a list's one entry: a block of a residual stream if it reads what it gave."""

AXES = "the axes of its first tensor"
"""The `View.unconfirmed` of an elementwise function, whose features lie where its first tensor says."""

WeightOf = Callable[[nn.Module], Tensor | None]


@dataclass(frozen=True)
class View:
    """How the tensors at a layer read.

    Attributes:
        kind: one of `vocabulary.ALL_KINDS`.
        axis: the feature axis; negative ones count from the last, as torch's do.
        sample: what the layer treats on its own: a `position` (one vector of features), or an `example`
            (one element of the batch, whose rows are its pixels).
        trailing: how many axes, ending at the last, make up the features; counts only for axis -1.
        unbatched: number of axes of an input without a batch axis, for layers that accept one.
        weight: the scale as applied, of shape (features,), where it is not the module's ``weight``.
        certain: the kind and axis follow from the class itself; otherwise the first call may correct them.
        unconfirmed: what makes a module look like a norm or Linear, where that alone does not make it one
            and its first call must show it; else "".
        graph: an example is a graph: the rows that a vector among the call's arguments gives one number.
    """

    kind: str
    axis: int = -1
    sample: SampleUnit = "position"
    trailing: int = 1
    unbatched: int | None = None
    weight: WeightOf | None = None
    certain: bool = False
    unconfirmed: str = ""
    graph: bool = False
