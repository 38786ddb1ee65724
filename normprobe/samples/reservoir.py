"""Which samples a site keeps, and in which slots: a bottom-k sample by hash, shared by sites.

A reservoir never changes: what a forward adds makes another one. So all layers that read the same samples
share one reservoir and make the choice once, whatever is cached with a reservoir in its key stays right,
and the numbers kept of each layer lie in the same slots. The k samples of smallest hash are a uniform
sample without replacement, and those of a union are found among those of its parts (Cohen, Kaplan 2007,
"Summarizing data using bottom-k sketches").
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from normprobe.samples.hashing import Hashes

Slots = NDArray[np.int64]
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Identities:
    """Who samples are, as arrays of one length.

    Attributes:
        hash: of (seed, example, position), below 2**63.
        example: running number of the example.
        position: index among the real samples of the example.
        repeat: which of the layer's calls within the forward.
        call: running number of the forward.
        text: the sample's label, or "".
    """

    hash: Hashes
    example: NDArray[np.int64]
    position: NDArray[np.int64]
    repeat: NDArray[np.int64]
    call: NDArray[np.int64]
    text: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.hash)

    def take(self, index: NDArray[np.intp] | slice) -> Identities:
        """Those at these indices."""
        return Identities(*(getattr(self, column)[index] for column in _COLUMNS))

    def with_others(self, at: NDArray[np.int64], others: Identities, size: int) -> Identities:
        """These as ``size`` entries, with others at the indices ``at``, to which all past the end belong."""
        columns = []
        for name in _COLUMNS:
            own = getattr(self, name)
            # Never in place: other sites share the reservoir that these are of.
            column = own.copy() if size == len(own) else np.resize(own, size)
            column[at] = getattr(others, name)
            columns.append(column)
        return Identities(*columns)

    @staticmethod
    def none() -> Identities:
        """An empty set of identities."""
        return Identities(np.empty(0, np.uint64), _NONE, _NONE, _NONE, _NONE, np.empty(0, object))

    @staticmethod
    def joined(parts: list[Identities]) -> Identities:
        """The identities of all parts, in their order."""
        return Identities(*(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS))


_COLUMNS = tuple(field.name for field in fields(Identities))


class ReservoirUpdate(NamedTuple):
    """What a forward adds: the reservoir after it, which of the candidates are kept, and in which slots."""

    reservoir: Reservoir
    chosen: NDArray[np.intp]
    slots: Slots


class Reservoir:
    """The k samples of smallest hash so far, ties by repeat; or all samples.

    Attributes:
        k: how many are kept at most; None for all.
        limit: the largest hash that is kept, once there are k; None before.
        size: how many are kept.
    """

    def __init__(self, k: int | None, limit: np.uint64 | None = None) -> None:
        self.k = k
        self.limit = limit
        self.size = 0
        self._parts: list[Identities] = []

    def count_admissible(self, hashes: Hashes) -> int:
        """How many of these ascending hashes may still be kept."""
        if self.k == 0:
            return 0
        if self.limit is None:
            return len(hashes)
        # Of most forwards none: nothing is searched for then.
        if not len(hashes) or hashes[0] > self.limit:
            return 0
        return int(np.searchsorted(hashes, self.limit, side="right"))

    def offer(self, candidates: Identities) -> ReservoirUpdate:
        """The reservoir after these candidates."""
        count = len(candidates)
        if count == 0 or self.k == 0:
            return ReservoirUpdate(self, _NONE, _NONE)
        if self.k is None or self.size + count <= self.k:
            return self._append(candidates)
        return self._replace(candidates)

    def identities(self) -> Identities:
        """Who is kept, in order of slots."""
        if not self._parts:
            return Identities.none()
        if len(self._parts) > 1:  # the one change of a reservoir, which no one sees
            self._parts = [Identities.joined(self._parts)]
        return self._parts[0]

    @property
    def nbytes(self) -> int:
        """How much memory its arrays take."""
        return sum(getattr(part, name).nbytes for part in self._parts for name in _COLUMNS)

    def _append(self, candidates: Identities) -> ReservoirUpdate:
        after = Reservoir(self.k)
        after.size = self.size + len(candidates)
        # Joined late: only the list of parts is copied, whatever it holds.
        after._parts = [*self._parts, candidates]
        # Before it is full nothing is refused, and there is no limit.
        if after.size == self.k:
            after.limit = after.identities().hash.max()
        index = np.arange(len(candidates))
        return ReservoirUpdate(after, index, index + self.size)

    def _replace(self, candidates: Identities) -> ReservoirUpdate:
        kept, size = self.identities(), self.size
        assert self.k is not None
        hashes = np.concatenate([kept.hash, candidates.hash])
        limit = np.partition(hashes, self.k - 1)[self.k - 1]
        stays, last = hashes < limit, np.flatnonzero(hashes == limit)
        if len(last) > 1:  # of one sample in several calls those of the earlier ones
            repeat = np.concatenate([kept.repeat, candidates.repeat])[last]
            last = last[np.argsort(repeat, kind="stable")[: self.k - np.count_nonzero(stays)]]
        stays[last] = True
        chosen = np.flatnonzero(stays[size:])
        if not len(chosen):
            return ReservoirUpdate(self, _NONE, _NONE)
        # Slots of those that leave are filled again: the numbers of those that stay need not move.
        free = np.flatnonzero(~stays[:size])
        slots = np.concatenate([free, np.arange(size, size + len(chosen) - len(free))])
        after = Reservoir(self.k, limit)
        after.size = size + len(chosen) - len(free)
        after._parts = [kept.with_others(slots, candidates.take(chosen), after.size)]
        return ReservoirUpdate(after, chosen, slots)


class EmptyReservoirs:
    """Empty reservoirs: sites that begin with the same one, and get the same samples, go on sharing one.

    Args:
        most: how many samples any of them keeps; None for all.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._empty: dict[int | None, Reservoir] = {}

    def of(self, k: int | None) -> Reservoir:
        """The empty reservoir of the k smallest, or of as many as any reservoir keeps."""
        k = min((count for count in (k, self._most) if count is not None), default=None)
        return self._empty.setdefault(k, Reservoir(k))
