"""The formulas of norms: which numbers share a mean and a variance, and how the tensors of such a norm read.

A formula says of a tensor arranged as (samples, rows, features) which numbers are normalized together:
LayerNorm the features of a sample (Ba, Kiros, Hinton 2016), RMSNorm the same without centring (Zhang,
Sennrich 2019), GroupNorm rows and a group of features of an example (Wu, He 2018), InstanceNorm the rows of
one feature (Ulyanov, Vedaldi, Lempitsky 2016), BatchNorm those of all examples (Ioffe, Szegedy 2015).

A new way of normalizing is a `Formula` listed by `formulas_of_view` or `other_formulas`, and, where its
fields do not say enough, a branch of `normalize`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from normprobe.layers.norms.affine import vector
from normprobe.layers.view import SampleUnit, View

Together = Literal["features", "example", "batch", "running", "past", "graph"]
_MOST_GROUPS = 64
"""Most groups tried where a norm does not say how many it has: each number is a pass over the call."""


@dataclass(frozen=True)
class Formula:
    """One way in which a norm may work.

    Attributes:
        kind: the kind of a norm that works like this.
        axis: the feature axis.
        together: what is normalized together: the features of a position; the rows (and grouped features)
            of an example; those of all examples (batch); nothing, stored running statistics are applied;
            the rows of an example up to each step (past); or the rows (and features) of a graph.
        trailing: how many axes, ending at the last, make up the features.
        groups: how many groups the features fall into; 0 for one group a feature.
        centred: the mean is subtracted.
        square: the divisor is the root of the mean square, not the standard deviation.
        own_means: the mean subtracted is each feature's own, though several share a divisor.
    """

    kind: str
    axis: int
    together: Together = "features"
    trailing: int = 1
    groups: int = 1
    centred: bool = True
    square: bool = True
    own_means: bool = False

    @property
    def sample(self) -> SampleUnit:
        """What a norm that works like this treats on its own."""
        return "position" if self.together == "features" else "example"

    def corrected(self, view: View) -> View:
        """A view with the kind, axis and sample of this formula."""
        graph = self.together == "graph"
        return replace(
            view, kind=self.kind, axis=self.axis, sample=self.sample, trailing=self.trailing, graph=graph
        )


def formulas_of_view(view: View, groups: int) -> tuple[Formula, ...]:
    """The formulas that agree with what a layer's class says of it."""
    axis = view.axis
    if view.sample == "position":
        return over_features(axis, view.trailing, groups)
    if view.kind == "batch_norm":
        return (Formula("batch_norm", axis, "running"), Formula("batch_norm", axis, "batch"))
    if view.kind == "instance_norm":
        # Of `track_running_stats` in evaluation mode it applies running statistics, as a batch norm does.
        return (Formula("instance_norm", axis, "example", groups=0), Formula("batch_norm", axis, "running"))
    return (Formula(view.kind, axis, "example", groups=groups),)


def over_features(axis: int, trailing: int, groups: int) -> tuple[Formula, ...]:
    """The formulas that normalize the features of each position, as declared groups and as a whole."""
    counts = (1,) if groups == 1 else (groups, 1)
    return tuple(
        Formula(kind, axis, trailing=trailing, groups=count, centred=kind == "layer_norm")
        for count in counts
        for kind in ("layer_norm", "rms_norm")
    )


def other_formulas(axes: Mapping[int, int], groups: int, *, graphs: bool = False) -> Iterator[Formula]:
    """Every formula along these feature axes, whatever the class says, the commonest first.

    Args:
        axes: the axes and their sizes.
        groups: how many groups the module says its features fall into.
        graphs: whether its rows are nodes of graphs, which it may be told apart.
    """
    for axis in axes:
        yield from over_features(axis, 1, groups)
    if graphs:
        yield from _over_graphs()
    for axis in axes:
        yield Formula("instance_norm", axis, "example", groups=0)
        for count in {groups: None, 1: None}:  # each once, in this order
            yield Formula("group_norm", axis, "example", groups=count)
        yield Formula("group_norm", axis, "past")
        yield Formula("batch_norm", axis, "running")
        # All rows are one graph where it is told of none, and what is of one graph is of no batch.
        if not graphs:
            yield Formula("batch_norm", axis, "batch")
    # The rarest last: the rows of a feature without centring (filter response normalization; Singh, Krishnan
    # 2020, arXiv:1911.09737); divided by the standard deviation, without subtracting the mean.
    for axis in axes:
        yield Formula("instance_norm", axis, "example", groups=0, centred=False)
        yield Formula("norm", axis, centred=False, square=False)


def _over_graphs() -> Iterator[Formula]:
    """The formulas of norms over a graph.

    Of all its numbers, of each feature (GraphNorm; Cai et al. 2021, arXiv:2009.03294), and of all after each
    feature's mean is subtracted (PairNorm; Zhao, Akoglu 2020, arXiv:1909.12223).
    """
    yield Formula("group_norm", -1, "graph")
    yield Formula("instance_norm", -1, "graph", groups=0)
    yield Formula("norm", -1, "graph", own_means=True)


def grouped_formulas(axes: Mapping[int, int]) -> Iterator[Formula]:
    """The formulas with any number of equal groups of at least two features, along axes of these sizes."""
    for axis, features in axes.items():
        for count in range(2, min(features // 2, _MOST_GROUPS) + 1):
            if features % count == 0:
                yield from over_features(axis, 1, count)[:2]  # those after it are without groups
                if axis == 1:
                    yield Formula("group_norm", axis, "example", groups=count)


def normalize(
    formula: Formula,
    x: Tensor,
    eps: float,
    module: nn.Module,
    *,
    time: int | None = None,
    graphs: Tensor | None = None,
) -> Tensor | None:
    """Normalize ``x`` by a formula, before scale and shift.

    Args:
        formula: which numbers are normalized together.
        x: the input, shape (samples, rows, features).
        eps: added to the variance.
        module: the norm, for its running statistics.
        time: how many steps the rows consist of, for a norm over the steps so far.
        graphs: which graph each sample is of, for a norm over graphs.

    Returns:
        The same shape; None where the formula does not apply: no running statistics, groups that do not
        divide the features, or single numbers, which every formula makes 0 or 1.
    """
    samples, rows, features = x.shape
    if formula.together == "graph":
        return None if graphs is None else _over_graph(formula, x, eps, module, graphs)
    if formula.together == "running":
        mean, variance = (vector(module, name, features) for name in ("running_mean", "running_var"))
        if variance is None and (std := vector(module, "running_std", features)) is not None:
            # Of batch renormalization (Ioffe 2017, arXiv:1702.03275), which has its eps in it already.
            variance, eps = std.square(), 0.0
        return None if mean is None or variance is None else (x - mean) / (variance + eps).sqrt()
    if formula.together == "past":
        return _over_past(x, eps, time)
    # Beyond this line all formulas differ only in the axes that they average over.
    groups = formula.groups or features
    if features % groups:
        return None
    grouped = x.reshape(samples, rows, groups, features // groups)
    axes = {"features": (3,), "example": (1, 3), "batch": (0, 1)}[formula.together]
    if all(grouped.shape[axis] == 1 for axis in axes):
        return None
    d = grouped - grouped.mean(axes, keepdim=True) if formula.centred else grouped
    variance = d.square().mean(axes, keepdim=True) if formula.square else grouped.var(axes, keepdim=True)
    return (d / (variance + eps).sqrt()).reshape(x.shape)


def _over_graph(formula: Formula, x: Tensor, eps: float, module: nn.Module, graphs: Tensor) -> Tensor:
    """Normalize over the rows of each graph, and over its features if they are grouped."""
    rows = x.flatten(0, 1)
    numbers, graph = torch.unique(graphs.to(torch.int64).cpu(), return_inverse=True)
    count = torch.bincount(graph).to(x.dtype)[:, None]

    def mean_of(values: Tensor, *, features: bool) -> Tensor:
        total = torch.zeros(len(numbers), values.shape[1], dtype=x.dtype).index_add_(0, graph, values)
        mean = total / count
        return (mean.mean(1, keepdim=True) if features else mean)[graph]

    mean = mean_of(rows, features=formula.groups == 1 and not formula.own_means)
    kept = vector(module, "mean_scale", x.shape[2])  # how much of the mean GraphNorm subtracts
    d = rows - (mean if kept is None else mean * kept)
    variance = mean_of(d.square(), features=formula.groups == 1)
    return (d / (variance + eps).sqrt()).reshape(x.shape)


def _over_past(x: Tensor, eps: float, time: int | None) -> Tensor | None:
    """Normalize over all features and the steps so far (Gemma 3n's audio encoder); None without steps.

    The variance so far is the mean square of each step's deviations from the mean at that step.
    """
    if not time or time == 1 or x.shape[1] % time:
        return None
    steps = x.reshape(x.shape[0], time, -1)
    count = torch.arange(1, time + 1, dtype=x.dtype)[:, None] * steps.shape[2]
    d = steps - steps.sum(2, keepdim=True).cumsum(1) / count
    return (d / (d.square().sum(2, keepdim=True).cumsum(1) / count + eps).sqrt()).reshape(x.shape)
