"""The logarithmic scale of everything that the report draws by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LogScale:
    """Maps positive values to places between two ends.

    Attributes:
        low: the value at `start`, above zero.
        high: the value at `end`; where it is no larger than `low`, everything lies in the middle.
        start: a place, in pixels.
        end: a place, in pixels; below `start` on an axis that points upwards.
    """

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """The place of a positive value, rounded to a tenth of a pixel."""
        low, span = np.log10(self.low), np.log10(self.high) - np.log10(self.low)
        share = (np.log10(value) - low) / span if span > 1e-9 else 0.5
        return round(float(self.start + share * (self.end - self.start)), 1)
