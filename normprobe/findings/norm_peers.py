"""The check of a norm whose scale is not that of the same norm in other blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.findings.check import Check, Finding, Severity
from normprobe.formatting import format_number, format_range, spots
from normprobe.tables.measures.common import at_site
from normprobe.tables.measures.divisors import divisor_measures
from normprobe.tables.measures.features import feature_measures
from normprobe.tables.measures.layers import layer_measures
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


@dataclass(frozen=True, kw_only=True)
class NormUnlikePeers(Check):
    """A norm's weight, or what it writes, is far larger or smaller than at the same norm in all other blocks.

    Training scales the norms of a role alike, or changes their scale from block to block by little. One that
    stands apart from every other was edited, merged or converted wrongly, or its weight was not loaded. What
    it writes then drowns beside the residual stream, or drowns that. Compared are the RMS of the weight and,
    apart from BatchNorm, the variance of the output, each with the nearest of the other blocks.

    What to do: compare the weight with that of the original checkpoint.

    Figure: the panel of the norm; norms over depth.
    Source: robust outlier rules as in Huber 1981, Robust Statistics, with the nearest neighbour as measure.
    When it is wrong: a block that is built to differ. Norms with a weight of 0, and names without a block
    number, are left out.

    Attributes:
        decades: least distance of log10 of the RMS from the nearest other block, and from their median, that
            is reported; of log10 of the variance twice that.
        blocks: least number of blocks.
    """

    name: ClassVar[str] = "norm_unlike_peers"
    title: ClassVar[str] = "A norm unlike those of other blocks"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = (
        "Compare its weight with the original checkpoint; look for an edit or conversion that scaled it."
    )
    source: ClassVar[str] = "Huber 1981, Robust Statistics"
    rule: ClassVar[str] = (
        "The RMS of the weight is a factor of 10^{decades} or more from that of the nearest other block "
        "and from their median, or the variance of the output twice that power, in models of {blocks} "
        "blocks or more."
    )
    fitted: ClassVar[tuple[str, ...]] = ("decades",)

    decades: float = 1.0
    blocks: int = 3

    def __call__(self, tables: Tables) -> list[Finding]:
        """The norm that stands apart most from those of its role in other blocks."""
        outputs = at_site(layer_measures(tables), OUTPUT)
        norms = outputs[outputs["kind"] != "linear"]
        if norms.empty:
            return []
        names = [str(name) for name in norms.index]
        place = spots(names)
        roles = pd.Series([place[name].role for name in names], index=norms.index)
        roles = roles[[place[name].block is not None and place[name].role != "*" for name in names]]
        weight = at_site(feature_measures(tables), OUTPUT)["weight_rms"].reindex(roles.index)
        below = at_site(divisor_measures(tables), INPUT)["divisor"].reindex(roles.index)
        eps = tables.ledger.set_index("layer")["eps"].reindex(roles.index).astype("float64")
        # What eps makes small is another check's, and what running statistics scale, too.
        plain = norms["kind"].reindex(roles.index).ne("batch_norm").to_numpy(bool)
        wrote = norms["variance"].reindex(roles.index).where(plain & ~(below < eps).to_numpy(bool))
        by_weight = self._apart(weight, roles) - self.decades
        # A variance has twice the decades of a root mean square.
        by_variance = self._apart(wrote, roles) / 2 - self.decades
        apart = pd.concat([by_weight, by_variance], axis=1).max(axis=1)
        apart = apart[apart > 0]
        if apart.empty:
            return []
        layer = str(apart.idxmax())
        of_weight = bool(by_weight[layer] > 0)
        return [self._finding(layer, weight if of_weight else wrote, roles, tuple(apart.index), of_weight)]

    def _apart(self, values: pd.Series, roles: pd.Series) -> pd.Series:
        """The decades between each value and the nearest of its role, or their median if that is nearer."""
        given = values.to_numpy(dtype="float64")
        positive = np.flatnonzero(np.isfinite(given) & (given > 0))
        logs, role = np.log10(given[positive]), pd.factorize(roles.to_numpy(dtype=object)[positive])[0]
        found = np.full(len(given), np.nan)
        for number in np.unique(role):
            here = np.flatnonzero(role == number)
            # Of two norms nothing says which is the odd one.
            if len(here) >= max(self.blocks, 2):
                found[positive[here]] = _from_others(logs[here])
        return pd.Series(found, index=values.index)

    def _finding(
        self, layer: str, values: pd.Series, roles: pd.Series, affected: tuple[str, ...], of_weight: bool
    ) -> Finding:
        others = values[(roles == roles[layer]) & (values > 0)].drop(layer)
        value = float(values[layer])
        power = self.decades if of_weight else 2 * self.decades
        below = value < others.min()
        what = "RMS of this norm's weight" if of_weight else "variance of what this norm writes"
        return Finding(
            layer=layer,
            site=OUTPUT,
            statistic="RMS of the weight" if of_weight else "variance of the output",
            value=value,
            threshold=float(others.min() / 10**power if below else others.max() * 10**power),
            message=f"The {what} is {format_number(value)}; in the {len(others)} other blocks "
            f"the same norm's is {format_range(others.min(), others.max())}.",
            evidence="output:weight_rms" if of_weight else "output:variance",
            affected=affected,
        )


def _from_others(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each number lies from the nearest of the others, or from their median if that is nearer."""
    order = np.argsort(logs, kind="stable")
    line, place = logs[order], np.arange(len(logs))
    apart = np.diff(line, prepend=-np.inf, append=np.inf)
    # The others in order are the line without one: from there on each stands a place farther.
    middle = [
        np.where(at < place, line[at], line[at + 1]) for at in ((len(logs) - 2) // 2, (len(logs) - 1) // 2)
    ]
    nearest = np.minimum(apart[:-1], apart[1:])
    found: NDArray[np.float64] = np.minimum(nearest, np.abs((middle[0] + middle[1]) / 2 - line))
    return found[np.argsort(order)]
