"""What of distributions is asked for, what comes out, and what an accumulator of them promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from normprobe.kernels.choice import Choice
from normprobe.kernels.distributions.central_moments import CentralMoments

if TYPE_CHECKING:
    import torch


class DistributionOptions(NamedTuple):
    """What is measured beside the moments.

    Attributes:
        kurtosis: central sums up to the fourth power.
        quantiles: counts in bins.
    """

    kurtosis: bool = False
    quantiles: bool = False


NO_DISTRIBUTIONS = DistributionOptions()


@dataclass(frozen=True, eq=False)
class Distribution:
    """Everything an accumulator of a distribution holds, as numpy arrays; None of what is not asked for.

    Attributes:
        features: central sums of each feature.
        kept: those of the kept samples in order of slots, shape (slots, 5).
        counts: how many numbers lie in each bin, int64, shape (TABLE,); see `bins.counted_bins`.
    """

    features: CentralMoments | None
    kept: NDArray[np.float64] | None
    counts: NDArray[np.int64] | None


class DistributionAccumulator(Protocol):
    """The distribution of one site of one layer, on the device where its tensors lie.

    As for `normprobe.kernels.types.Accumulator`, `measure` and `merge` are apart, so that a tensor that
    several layers read is measured once.
    """

    def measure(self, values: torch.Tensor, choice: Choice) -> Any:
        """The distribution of a tensor on its own, of shape (samples, rows, features)."""

    def merge(self, found: Any, choice: Choice) -> None:
        """Add what `measure` returned for this choice."""

    def distribution(self, slots: int) -> Distribution:
        """Everything so far; ``slots`` of kept samples are filled."""

    def nbytes(self) -> int:
        """How many bytes it takes."""
