"""How far two recordings of the same data are apart at one place: relative errors of what pairs.

Every error is a root of noise power over signal power. Raw rows give it exactly for the samples kept. Means
and standard deviations bound it from below, for all the data: whatever pairs two sets of numbers, the mean of
(x - y)² is at least the squared difference of their means plus that of their standard deviations (Gelbrich,
On a Formula for the L2 Wasserstein Metric, Mathematische Nachrichten 147, 1990).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from normprobe.divergence.kept_samples import KeptSamples, pair_samples
from normprobe.kernels.moments import Moments

Numbers = NDArray[np.float64]

# Rows are a sample, and their error scatters: a bound must be twice as large to say that they miss it.
_MISSES = 2.0


@dataclass(frozen=True)
class SiteErrors:
    """Relative errors at one place; NaN where nothing pairs.

    Attributes:
        pairs: raw rows, or samples where no raw rows are kept, that pair.
        rows: of the raw rows.
        samples: of mean and standard deviation of the kept samples, a lower bound.
        features: of mean and standard deviation of each feature, a lower bound.
        typical: median over what pairs of each sample's own relative error.
        cosine: between the raw rows of the two, as one vector each.
        broken: whether one of them has NaN or infinite values where the other has none.
    """

    pairs: int
    rows: float
    samples: float
    features: float
    typical: float
    cosine: float
    broken: bool

    def known(self, floor: float) -> float:
        """The error as well as it is known: of raw rows, unless a bound shows that they miss most of it.

        Args:
            floor: bounds below it say only how moments are measured.
        """
        if self.broken:
            return np.inf
        if np.isnan([self.rows, self.samples, self.features]).all():
            return np.nan
        bound = max((b for b in (self.samples, self.features) if b > floor), default=0.0)
        rows = 0.0 if np.isnan(self.rows) else self.rows
        return rows if bound <= _MISSES * rows else bound


def measure_errors(
    rows: tuple[KeptSamples, KeptSamples] | None,
    samples: tuple[KeptSamples, KeptSamples] | None,
    features: tuple[Moments, Moments] | None,
    tiny: float,
) -> SiteErrors:
    """Compare two recordings at one place.

    Args:
        rows: the raw rows that each kept; None if they cannot pair.
        samples: the samples that each kept; None if they cannot pair.
        features: the moments of each feature; None if they are over different numbers of rows.
        tiny: a root mean square below which a signal is itself no more than rounding of what came before.
    """
    raw = pair_samples(*rows) if rows else (np.empty((0, 1)),) * 2
    kept = pair_samples(*samples) if samples else (np.empty((0, 2)),) * 2
    broken = bool((np.isfinite(raw[0]) != np.isfinite(raw[1])).any())
    raw = _finite(raw)
    moved = np.nan
    if features:
        broken |= bool((features[0].nonfinite != features[1].nonfinite).any())
        moved = relative_error(_mean_and_deviation(features[0]), _mean_and_deviation(features[1]), tiny)
    pairs = raw if len(raw[0]) else kept
    return SiteErrors(
        pairs=len(pairs[0]),
        rows=relative_error(*raw, tiny),
        samples=relative_error(*kept, tiny),
        features=moved,
        typical=_median_error(*pairs, tiny),
        cosine=_cosine(*raw),
        broken=broken,
    )


def relative_error(a: Numbers, b: Numbers, tiny: float = 0.0) -> float:
    """Root of the sum of (b - a)² over that of a², row-wise arrays of one shape; NaN of nothing.

    Args:
        a: shape (rows, numbers).
        b: the same.
        tiny: the least root mean square (per row) that counts as a signal.
    """
    if not a.size:
        return np.nan
    noise, signal = np.square(b - a).sum(), np.square(a).sum()
    # Before dividing: two signals of zeros are equal.
    if noise == 0:
        return 0.0
    # Of a signal of rounding alone any difference would be a large share.
    signal = max(signal, tiny**2 * a.size)
    return float(np.sqrt(noise / signal)) if signal > 0 else np.inf


def _finite(raw: tuple[Numbers, Numbers]) -> tuple[Numbers, Numbers]:
    """The rows with zeros where either has NaN or infinite values."""
    fine = np.isfinite(raw[0]) & np.isfinite(raw[1])
    # Zeros on both sides: equal, and no part of the signal. `broken` tells of them.
    return (raw[0], raw[1]) if fine.all() else (np.where(fine, raw[0], 0), np.where(fine, raw[1], 0))


def _mean_and_deviation(moments: Moments) -> Numbers:
    """Mean and standard deviation of each feature, shape (features, 2); zeros of one without values."""
    # Features without a value in either are equal.
    deviation = np.sqrt(np.nan_to_num(moments.variance))
    return np.column_stack([np.where(moments.count > 0, moments.mean, 0.0), deviation])


def feature_errors(a: Moments, b: Moments, tiny: float) -> Numbers:
    """How far mean and standard deviation of each feature moved, over the rms of all values; (features,)."""
    of_a, of_b = _mean_and_deviation(a), _mean_and_deviation(b)
    size = max(float(np.sqrt(np.square(of_a).sum(1).mean())), tiny) if len(of_a) else 0.0
    noise = np.sqrt(np.square(of_b - of_a).sum(1))
    return noise / size if size > 0 else np.where(noise > 0, np.inf, 0.0)


def _median_error(a: Numbers, b: Numbers, tiny: float) -> float:
    if not a.size:
        return np.nan
    noise, signal = np.square(b - a).sum(1), np.square(a).sum(1).clip(tiny**2 * a.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.sqrt(np.where(noise > 0, noise / signal, 0.0))
    return float(np.median(each))


def _cosine(a: Numbers, b: Numbers) -> float:
    sizes = np.square(a).sum() * np.square(b).sum()
    return float((a * b).sum() / np.sqrt(sizes)) if sizes > 0 else np.nan
