"""A mask of a model's input carried to where there are other numbers of positions: behind strides and pools.

A position behind a convolution is real if all it reads of the input is, as far as the input reaches: of n
real positions at the beginning floor((n + 2 padding - dilation (kernel - 1) - 1) / stride) + 1 are real
behind it, which is what speech models compute themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Real = NDArray[np.bool_]
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Upsample)
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
# Of each family the kinds of 1, 2 and 3 axes, in turn.
_AXES = {kind: 1 + index % 3 for kinds in (_CONVOLUTIONS, _POOLS) for index, kind in enumerate(kinds)}
LENGTH_FUNCTIONS = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")
"""Methods of transformers' models that say how many positions are behind their strides."""


class Stride(NamedTuple):
    """What a convolution or a pool does along one axis.

    Attributes:
        step: how many positions of its input lie between two of its output; 0 if it has more of them.
        reach: how far behind the first position that an output reads the last one lies.
        padding: how many positions are put at both ends together.
    """

    step: int
    reach: int
    padding: int


def strides_of(module: nn.Module) -> tuple[Stride, ...]:
    """What a module does along each of its last axes; none if it keeps sizes or is of another kind."""
    if isinstance(module, _TRANSPOSED):
        return tuple(Stride(0, 0, 0) for _ in range(_axes_of_transposed(module)))
    axes = next((count for kind, count in _AXES.items() if isinstance(module, kind)), 0)
    if not axes:
        return ()
    kernel, step = _each(module.kernel_size, axes), _each(module.stride, axes)
    dilation = _each(getattr(module, "dilation", 1), axes)
    if isinstance(module.padding, str):
        padding = [
            d * (k - 1) if module.padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)
        ]
    else:
        padding = [2 * size for size in _each(module.padding, axes)]
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    found = tuple(Stride(*numbers) for numbers in zip(step, reach, padding, strict=True))
    return found if any(stride.step > 1 or stride.reach != stride.padding for stride in found) else ()


def _each(value: Any, axes: int) -> list[int]:
    """A setting by axis."""
    return [int(entry) for entry in value] if isinstance(value, (tuple, list)) else [int(value)] * axes


def _axes_of_transposed(module: nn.Module) -> int:
    kernel = getattr(module, "kernel_size", None)
    return len(kernel) if isinstance(kernel, tuple) else 1


def through(real: Real, stride: Stride, given: int, size: int) -> Real:
    """The mask behind a stride.

    Args:
        real: shape (batch, positions).
        stride: what is done along the positions.
        given: how many positions went in; more than the mask has where the model padded them itself.
        size: how many came out.
    """
    positions = real.shape[1]
    at = np.arange(size)
    if stride.step == 0:
        return real[:, at * positions // size]
    padding = stride.padding + given - positions
    first = np.minimum(at * stride.step, positions - 1)
    last = np.minimum(first + max(0, stride.reach - padding), positions - 1)
    # Its two ends tell: between two real positions of one example there is no padding.
    return np.asarray(real[:, first] & real[:, last])


class MaskBySize:
    """The mask of one sequence in one forward, by how many positions there are.

    Args:
        real: shape (batch, positions), True = real, at the input.
    """

    def __init__(self, real: Real) -> None:
        self._of: dict[int, Real | None] = {real.shape[1]: real}

    def carry(self, strides: Iterable[Stride], given: Iterable[int], sizes: Iterable[int]) -> None:
        """Note what a convolution or a pool made of a tensor of these last sizes."""
        for stride, before, after in zip(strides, given, sizes, strict=True):
            real = self._of.get(before)
            if real is None and before not in self._of:
                real = self._before_padding(before, stride)
            if real is None or after == before or after < 1:
                continue
            behind = through(real, stride, before, after)
            known = self._of.setdefault(after, behind)
            if known is not None and not np.array_equal(known, behind):
                self._of[after] = None  # two ways to as many positions: none is certain

    def _before_padding(self, given: int, stride: Stride) -> Real | None:
        """The mask of what the model padded to so many positions, as causal convolutions want."""
        most = max(stride.reach, stride.step - 1)
        near = [real for size, real in self._of.items() if 0 < given - size <= most]
        return near[0] if len(near) == 1 else None

    def at(self, size: int) -> Real | None:
        """The mask where there are so many positions; None if nothing is certain."""
        return self._of.get(size)

    def knows(self, size: int) -> bool:
        """Whether something was found out of so many positions, be it that nothing is certain."""
        return size in self._of

    def note(self, size: int, real: Real | None) -> None:
        """Note the mask where there are so many positions, if there is one."""
        if real is not None:
            self._of[size] = real

    def find(
        self, size: int, functions: Iterable[Callable[..., Any]], *, stacked: bool = True
    ) -> Real | None:
        """The mask where there are so many positions by a model's own functions, or else by whole groups."""
        real = next(iter(self._of.values()))
        assert real is not None
        found = next((mask for f in functions if (mask := _by_function(real, f, size)) is not None), None)
        self._of[size] = _by_groups(real, size) if found is None and stacked else found
        return self._of[size]


def _by_function(real: Real, function: Callable[..., Any], size: int) -> Real | None:
    """The mask whose lengths a model's own function gives, if it gives this size for the whole."""
    lengths = real.sum(1)
    if not np.array_equal(real, np.arange(real.shape[1]) < lengths[:, None]):
        return None
    try:
        behind = function(torch.tensor([real.shape[1], *lengths.tolist()]))
    except Exception:  # of a function that takes other arguments
        return None
    if not isinstance(behind, torch.Tensor) or behind.shape != (1 + len(lengths),):
        return None
    whole, *each = behind.long().tolist()
    return np.arange(size) < np.array(each)[:, None] if whole == size else None


def _by_groups(real: Real, size: int) -> Real | None:
    """The mask of positions stacked in groups of one length, if each group is real or padding throughout."""
    length = real.shape[1] // size
    if length < 2 or real.shape[1] - size * length >= length:
        return None
    groups = real[:, : size * length].reshape(len(real), size, length)
    whole = np.asarray(groups.all(2))
    return whole if np.array_equal(whole, groups.any(2)) else None
