"""Numbers of the rows of one layer and site, taken together: by their places, not by their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.tables.columns.tables import SITE_KEY

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

Numbers = NDArray[np.float64]
_found: WeakKeyDictionary[Tables, dict[str, BySite]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class BySite:
    """The rows of ``tables.features`` or ``tables.samples`` by layer and site.

    To group a million rows by two names takes longer than all that is asked of the groups. What is not a
    number (NaN) is left out of each result, which is NaN where nothing is left.

    Attributes:
        index: layer and site of each group, in order of the rows.
        codes: the group of each row.
    """

    index: pd.MultiIndex
    codes: NDArray[np.signedinteger[Any]]

    @cached_property
    def _order(self) -> NDArray[np.int64] | None:
        """The rows group by group; None where they lie so."""
        inorder = bool((self.codes[1:] >= self.codes[:-1]).all())
        return None if inorder else np.argsort(self.codes, kind="stable")

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """How many rows each group has."""
        return np.bincount(self.codes, minlength=len(self.index))

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum(self.sizes) - self.sizes

    @cached_property
    def _places(self) -> dict[tuple[str, str], int]:
        return {key: at for at, key in enumerate(self.index)}

    def rows(self, layer: str, site: str) -> NDArray[np.int64]:
        """Which rows are of one layer and site, in their order."""
        at = self._places.get((layer, site))
        if at is None:
            return np.empty(0, dtype=np.int64)
        found = np.arange(self._starts[at], self._starts[at] + self.sizes[at])
        return found if self._order is None else self._order[found]

    def of(self, groups: NDArray[Any]) -> NDArray[Any]:
        """What holds of each group, for each of its rows."""
        found: NDArray[Any] = groups[self.codes]
        return found

    def at(self, site: str) -> NDArray[np.bool_]:
        """Whether each row is of this site."""
        return self.of(np.asarray(self.index.get_level_values("site") == site, dtype=bool))

    def number(self, wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many rows of each group are wanted."""
        return np.bincount(self.codes[wanted], minlength=len(self.index))

    def largest(self, values: Numbers) -> Numbers:
        """The largest value of each group."""
        return self._reduced(np.fmax, values)

    def smallest(self, values: Numbers) -> Numbers:
        """The smallest value of each group."""
        return self._reduced(np.fmin, values)

    def mean(self, values: Numbers) -> Numbers:
        """The mean of each group."""
        known = ~np.isnan(values)
        count = self._reduced(np.add, known.astype(np.float64))
        total = self._reduced(np.add, np.where(known, values, 0.0))
        found: Numbers = total / np.where(count > 0, count, np.nan)
        return found

    def median(self, values: Numbers) -> Numbers:
        """The median of each group; of an even number the mean of the middle two."""
        found: Numbers = self.quantiles(values, (0.5,))[0]
        return found

    def quantiles(
        self, values: Numbers, shares: tuple[float, ...], how: Literal["linear", "lower"] = "linear"
    ) -> Numbers:
        """Quantiles of each group, shape (shares, groups), as numpy defines them.

        Args:
            values: a number for each row.
            shares: which quantiles, 0 to 1.
            how: a share between two values: in proportion, or the lower one.
        """
        found = np.full((len(shares), len(self.index)), np.nan)
        for groups, block in self._blocks(values):
            # Sorting puts NaN behind all numbers.
            block.sort(axis=1)
            known = (~np.isnan(block)).sum(1)
            line = np.arange(len(block))
            for number, share in enumerate(shares):
                at = share * np.maximum(known - 1, 0)
                low = np.floor(at).astype(np.int64)
                below = block[line, low]
                if how == "linear":
                    above = block[line, np.minimum(low + 1, np.maximum(known - 1, 0))]
                    part = at - low
                    # Of two infinities the difference is no number.
                    with np.errstate(invalid="ignore"):
                        below = np.where(above == below, below, below + (above - below) * part)
                found[number, groups] = below
        return found

    def first(self, wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The first row of each group that is wanted, -1 where none is."""
        found = np.full(len(self.index), -1, dtype=np.int64)
        rows = np.flatnonzero(wanted)[::-1]
        # Of several written to one place the last stays.
        found[self.codes[rows]] = rows
        return found

    def spreads(self, values: Numbers) -> pd.DataFrame:
        """How far apart the values of each group lie.

        Returns:
            Columns p5, p50, p95 (p5 and p95 NaN of a single value); ``ratio``, p95 ÷ p5 of the positive
            values (NaN of fewer than two); ``known``, how many values there are; ``zero``, how many are 0.
        """
        low, middle, high = self.quantiles(values, (0.05, 0.5, 0.95))
        # Percentiles: the ratio of the largest to the smallest would be that of two values.
        least, most = low, high
        if not (values > 0).all():
            least, most = self.quantiles(np.where(values > 0, values, np.nan), (0.05, 0.95))
        known, zero, positive = map(self.number, (~np.isnan(values), values == 0, values > 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(positive > 1, most / least, np.nan)
        # Of one number every percentile is that number, which would draw a spread of nothing.
        low, high = (np.where(known > 1, end, np.nan) for end in (low, high))
        columns = {"p5": low, "p50": middle, "p95": high, "ratio": ratio, "known": known, "zero": zero}
        return pd.DataFrame(columns, index=self.index)

    def part(self, rows: NDArray[np.int64]) -> BySite:
        """Some of the rows; groups of which none is left are left out."""
        codes, groups = pd.factorize(self.codes[rows])
        return BySite(self.index[groups], np.asarray(codes, dtype=np.int64))

    def portions(self, size: int) -> Iterator[slice | NDArray[np.int64]]:
        """The rows in portions of about `size`, each with all rows of its groups."""
        starts = [0]
        for start in self._starts.tolist():
            if start - starts[-1] >= size:
                starts.append(start)
        for start, end in pairwise([*starts, len(self.codes)]):
            yield slice(start, end) if self._order is None else self._order[start:end]

    def _blocks(self, values: Numbers) -> Iterator[tuple[NDArray[np.int64], Numbers]]:
        """Groups of one size, and their values, shape (groups, rows): a model has few sizes."""
        ordered = values if self._order is None else values[self._order]
        for size in np.unique(self.sizes[self.sizes > 0]):
            groups = np.flatnonzero(self.sizes == size)
            yield groups, ordered[self._starts[groups][:, None] + np.arange(size)]

    def _reduced(self, how: np.ufunc, values: Numbers) -> Numbers:
        found = np.full(len(self.index), np.nan)
        filled = self.sizes > 0
        if filled.any():
            ordered = values if self._order is None else values[self._order]
            found[filled] = how.reduceat(ordered, self._starts[filled])
        return found


def by_site(tables: Tables, name: str) -> BySite:
    """The rows of ``tables.features`` or ``tables.samples`` by layer and site, found once.

    Args:
        tables: the tables.
        name: "features" or "samples".
    """
    found = _found.setdefault(tables, {})
    if name not in found:
        found[name] = grouped(getattr(tables, name))
    return found[name]


def grouped(frame: pd.DataFrame) -> BySite:
    """The rows of a table with columns ``layer`` and ``site`` by these, in order of first appearance."""
    (layer, layers), (site, sites) = (pd.factorize(frame[name]) for name in SITE_KEY)
    # Of numbers half as wide, as there may be millions of rows; there are never so many sites.
    both = layer.astype(np.int32) * np.int32(max(len(sites), 1)) + site.astype(np.int32)
    codes, pairs = pd.factorize(both)
    at_layer, at_site = np.divmod(pairs, max(len(sites), 1))
    index = pd.MultiIndex.from_arrays([layers.take(at_layer), sites.take(at_site)], names=SITE_KEY)
    return BySite(index, np.asarray(codes, dtype=np.int32))


def rows_of(tables: Tables, name: str, layers: Iterable[str], site: str) -> pd.DataFrame:
    """The rows of some layers at one site of ``tables.features`` or ``tables.samples``, in their order."""
    sites, wanted = by_site(tables, name), set(layers)
    which = [layer in wanted and at == site for layer, at in sites.index]
    frame: pd.DataFrame = getattr(tables, name)
    return frame[sites.of(np.array(which, dtype=bool))] if any(which) else frame.iloc[:0]


def rows_at(tables: Tables, name: str, layer: str, site: str) -> pd.DataFrame:
    """The rows of one layer and site of ``tables.features`` or ``tables.samples``."""
    rows = by_site(tables, name).rows(layer, site)
    frame: pd.DataFrame = getattr(tables, name)
    # A slice copies nothing.
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return frame.iloc[rows[0] : rows[-1] + 1]
    return frame.iloc[rows]


def numbers(frame: pd.DataFrame, name: str) -> Numbers:
    """A column as float64; NaN where an entry is missing."""
    return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)


def divided(above: Numbers, below: Numbers) -> Numbers:
    """``above`` ÷ ``below``; NaN where the divisor is not positive, since a ratio to nothing says nothing."""
    return above / np.where(below > 0, below, np.nan)
