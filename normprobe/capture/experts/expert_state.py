"""What a probe holds of one module of experts, from its first call to the record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normprobe.capture.experts.expert_sums import ExpertSums, expert_sums
from normprobe.layers.layer import ExpertModule
from normprobe.tables.records import ExpertRecord, ExpertSiteRecord, valid_name
from normprobe.vocabulary import EXPERT_SITES, INPUT


@dataclass(eq=False)
class ExpertWindow:
    """What was measured in one window.

    Attributes:
        sums: the moments by site.
        weights: of each expert the sum of its routing weights; None before a call that told them.
        weighted: how many rows these are of, by expert.
    """

    sums: dict[str, ExpertSums] = field(default_factory=dict)
    weights: Any = None
    weighted: Any = None


@dataclass(eq=False)
class ExpertState:
    """The running state of one module of experts; the probe's lock guards it.

    Attributes:
        holder: the module, as found on entry.
        depth: order of first execution among such modules.
        orders: the order of rows in products of one expert, and of all, once it was seen.
        window: what was measured in the window that is measured for now.
    """

    holder: ExpertModule
    depth: int | None = None
    orders: dict[bool, str] = field(default_factory=dict)
    window: ExpertWindow = field(default_factory=ExpertWindow)

    def add(self, site: str, rows: Tensor, expert: Tensor) -> bool:
        """Add rows of these experts at a site; whether they are as wide as those before."""
        sums = self.window.sums.get(site)
        if sums is None:
            sums = self.window.sums[site] = expert_sums(self.holder.count, rows.shape[1], rows.device)
        # Before anything is added: moments of other features cannot be merged with these.
        if sums.width != rows.shape[1]:
            return False
        sums.add(rows, expert)
        return True

    def add_weights(self, weight: Tensor, expert: Tensor) -> None:
        """Add the routing weights of rows of these experts."""
        window, count = self.window, self.holder.count
        if window.weights is None:
            # One place more than experts, for pairs of none: taking these out would depend on the data.
            window.weights, window.weighted = (
                torch.zeros(count + 1, dtype=torch.float64, device=weight.device) for _ in range(2)
            )
        # Other numbers are padding or experts of other processes, and index_add_ would fail at them.
        known = torch.where((expert >= 0) & (expert < count), expert, count)
        window.weights.index_add_(0, known, weight.double())
        # Not the rows at the input: a call may say which rows are whose, but not how much they count.
        window.weighted.index_add_(0, known, torch.ones_like(weight, dtype=torch.float64))

    def record(self) -> ExpertRecord | None:
        """The state frozen; None if nothing was measured."""
        window, count = self.window, self.holder.count
        if INPUT not in window.sums:
            return None
        sites = tuple(
            ExpertSiteRecord(site, sums.width, rows, moments)
            for site in EXPERT_SITES
            if (sums := window.sums.get(site)) is not None
            for moments, rows in [sums.totals()]
        )
        weights, weighted = (_numbers(held, count) for held in (window.weights, window.weighted))
        name = valid_name(self.holder.name)
        return ExpertRecord(name, self.depth or 0, count, weights, weighted, sites)

    def nbytes(self) -> int:
        """How many bytes what was measured takes."""
        return sum(sums.nbytes() for sums in self.window.sums.values())


def _numbers(held: Tensor | None, count: int) -> NDArray[np.float64]:
    # A copy, for on the CPU the array shares the memory that later calls add to.
    return np.zeros(count) if held is None else held[:count].cpu().numpy().copy()
