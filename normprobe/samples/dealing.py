"""Which examples of the whole data a process has: they are dealt to processes in turn, one each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Deal:
    """How the examples of one process are numbered among those of all.

    They are dealt in turn, as `torch.utils.data.DistributedSampler` and `Dataset.shard` deal them: the first
    process has the examples 0, size, 2 * size, ... So numbered, the samples kept of each are, merged, those
    that one probe over all the data would have kept.

    Attributes:
        rank: which of the processes that have other data this is.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def number(self, example: Any) -> Any:
        """The number over all processes of an example of this one; whole numbers or arrays of them."""
        return example * self.size + self.rank

    def own(self, number: Any) -> Any:
        """The inverse of `number`: the running number within this process."""
        return (number - self.rank) // self.size


ALONE = Deal()
"""All the data are this process's."""


def deal_among(same: Iterable[int], world: int) -> Deal:
    """Which share of the data this process has, if the processes ``same`` have one and the same.

    Processes lie on a grid: those that share data with another one lie to it as these do to each other. Where
    they do not, nothing is known of the others, and each share is named by its first process.

    Args:
        same: ranks of the processes that have the data of this one, its own among them.
        world: how many processes there are.
    """
    ranks = sorted(set(same))
    first = ranks[0]
    steps = [rank - first for rank in ranks]
    firsts: list[int] = []
    taken: set[int] = set()
    for rank in range(world):
        if rank not in taken:
            group = {rank + step for step in steps}
            if group & taken or max(group) >= world:
                return Deal(first, world)
            taken |= group
            firsts.append(rank)
    return Deal(firsts.index(first), len(firsts)) if first in firsts else Deal(first, world)
