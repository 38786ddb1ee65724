"""What hooks read and write of a site at every call; twin of ``csrc/hooks/counters.h``.

Written under the probe's lock (`capture.forwards.current_forward.new_lock`), by a hook of the extension or by
`capture.measure`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from normprobe.kernels import dispatch


# Slots, as its twin has: an attribute that the other lacks is an error in either.
@dataclass(eq=False, slots=True)
class SiteCounters:
    """Counters of a site, and what its next call is compared with.

    Attributes:
        samples: reservoir of the samples whose moments are kept.
        rows: reservoir of the samples whose raw row is kept.
        dtype: dtype of the last tensor.
        state: the extension's accumulator, while it may read tensors by their own strides; None otherwise.
        plan_slot: where the extension finds a cached plan for the site's next tensor; None before the first.
        calls: how many firings were measured.
        n_samples: how many samples, those without a finite value included.
        masked: how many rows were left out as padding.
        firings: at the output, how often the layer was called, measured or not.
        form: which of the arguments of a decided call are tensors, as `call_tensors.bits_of` says; 0 for any.
        groups: where samples are of groups, (`GroupState`, its counters) of each by its code, or None.
        decided: whether nothing is left to decide at its calls, so that the extension may measure them alone.
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
    form: int = 0
    decided: bool = False
    groups: list[Any] | None = None


def new_counters(samples: Any, rows: Any) -> SiteCounters:
    """Counters of a new site that keeps these samples and rows, in the extension if it is there."""
    kernel = dispatch.compiled()
    made: SiteCounters = SiteCounters(samples, rows) if kernel is None else kernel.SiteCounters(samples, rows)
    return made
