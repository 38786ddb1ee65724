"""What is kept of one layer and site while it runs: moments, extremes and the kept samples, nothing more."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from normprobe.moments import Moments, merge
from normprobe.records import Holder, Kept
from normprobe.sampling import Hashes

_COLUMNS = tuple(column.name for column in fields(Kept))


class Bottom:
    """The k smallest samples met so far, or all of them."""

    def __init__(self, k: int | None) -> None:
        self.k = k
        self._chunks: list[Kept] = []
        self._limit: np.uint64 | None = None

    def admits(self, hashes: Hashes) -> int:
        """How many of these ascending hashes may still be kept."""
        if self.k == 0:
            return 0
        if self._limit is None:
            return len(hashes)
        return int(np.searchsorted(hashes, self._limit, side="right"))

    def add(self, chunk: Kept) -> None:
        """Keep the chunk as far as it is among the k smallest."""
        if len(chunk):
            self._chunks.append(chunk)
            if self.k is not None:
                self._settle()

    def kept(self) -> Kept | None:
        """What is kept, in ascending order; None if nothing is."""
        if len(self._chunks) > 1:
            self._settle()
        return self._chunks[0] if self._chunks else None

    def _settle(self) -> None:
        union = Kept(*(np.concatenate([getattr(chunk, name) for chunk in self._chunks]) for name in _COLUMNS))
        order = np.lexsort((union.repeat, union.hash))[: self.k]
        self._chunks = [union.take(order)]
        if self.k is not None and len(order) == self.k:
            self._limit = self._chunks[0].hash[-1]


@dataclass(eq=False)
class Site:
    """Everything measured at one site of one layer.

    Attributes:
        features: moments of each feature over the real rows.
        seen: moments of each feature over all rows, where a channel norm reads padding.
        calls: how many firings were measured.
        n_samples: how many samples, those without a finite value included.
        masked: how many rows were left out as padding.
        nonfinite_masked: how many NaN or infinite numbers lie in them.
        within_sum: sum over samples of the variance of their values.
        within_count: how many samples that sum has.
        dtypes: the dtypes met.
        minimum: who holds the smallest value.
        maximum: who holds the largest.
        samples: the kept samples' moments.
        rows: the kept samples' raw rows.
    """

    samples: Bottom
    rows: Bottom
    features: Moments | None = None
    seen: Moments | None = None
    calls: int = 0
    n_samples: int = 0
    masked: int = 0
    nonfinite_masked: int = 0
    within_sum: float = 0.0
    within_count: int = 0
    dtypes: dict[str, None] = field(default_factory=dict)
    minimum: Holder | None = None
    maximum: Holder | None = None

    def add_features(self, features: Moments, seen: Moments | None) -> None:
        """Merge the feature moments of one call."""
        if seen is not None or self.seen is not None:
            # Until the first padded call, what the layer saw is what was real.
            before = self.seen if self.seen is not None else self.features
            self.seen = _merged(before, seen if seen is not None else features)
        self.features = _merged(self.features, features)

    def add_extremes(self, low: Holder, high: Holder) -> None:
        """Keep the holders of the extremes of one call where they beat those so far."""
        if np.isfinite(low.value) and (self.minimum is None or low.value < self.minimum.value):
            self.minimum = low
        if np.isfinite(high.value) and (self.maximum is None or high.value > self.maximum.value):
            self.maximum = high


def _merged(total: Moments | None, part: Moments) -> Moments:
    return part if total is None else merge(total, part)
