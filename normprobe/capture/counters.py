"""What is looked up at every call; the compiled kernel has the same as plain memory, for its hooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normprobe.kernels import dispatch

if TYPE_CHECKING:
    pass


@dataclass(eq=False, slots=True)
class SiteCounters:
    """What a site keeps, what it met and how much.

    Attributes:
        samples: whose moments are kept.
        rows: whose raw row is kept.
        dtype: the dtype met last.
        state: the compiled kernel's sums, while that may read tensors as they lie.
        cell: where it finds what it agreed on with the sites that are alike.
        calls: how many firings were measured.
        n_samples: how many samples, those without a finite value included.
        masked: how many rows were left out as padding.
        firings: at the output, how often the layer was called, measured or not.
        decided: whether nothing is left to decide at its calls.
    """

    samples: Any
    rows: Any
    dtype: Any = None
    state: Any = None
    plan_slot: Any = None
    calls: int = 0
    n_samples: int = 0
    masked: int = 0
    firings: int = 0
    decided: bool = False


def counters(samples: Any, rows: Any) -> SiteCounters:
    """A fresh account of a site that keeps these."""
    kernel = dispatch.compiled()
    made: SiteCounters = SiteCounters(samples, rows) if kernel is None else kernel.SiteCounters(samples, rows)
    return made
