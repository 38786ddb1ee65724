"""Which pair of token and expert each row of a product is, where that is asked for: where there is padding.

A product of one expert has its tokens slot by slot or in their own order, one of all experts the pairs sorted
by expert. Which it is no argument says; the first product that reads what the module was given shows it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from normprobe.capture.experts.routing import Routing

UNORDERED = "which rows of its products are padding could not be told, so they are left out"

Pairs = Callable[[Routing, int | None], Tensor]
"""Gives the pairs that the rows of a product are: of one expert, or of all where that is None."""


def pairs_of(name: str, routing: Routing, expert: int | None) -> Tensor:
    """The pairs of a product in the order of this name, shape (rows,)."""
    return ORDERS[name](routing, expert)


def order_of(rows: Tensor, routing: Routing, expert: int | None, before: str) -> str:
    """The name of the order that the rows of a product of the first weight have; "" where it is none known.

    Args:
        rows: what the product reads, shape (rows, features).
        routing: the rows of the call that it is part of.
        expert: which expert it is of; None for all.
        before: the order of the last such product, or "".
    """
    # An accelerator would have to be waited for.
    if before and not rows.is_cpu:
        return before
    # The last one is tried first: it nearly always holds, and each trial gathers all rows.
    for name in dict.fromkeys((before, *ORDERS)) if before else ORDERS:
        # To the bit, for rows are gathered and never computed; under autocast they are rounded on the way.
        found = ORDERS[name](routing, expert)
        if len(found) == len(rows) and torch.equal(
            routing.hidden.index_select(0, routing.token[found]).to(rows.dtype), rows
        ):
            return name
    return ""


def _own(routing: Routing, expert: int | None) -> Tensor:
    """In the order of tokens, and of slots within one."""
    if expert is None:
        # As the model sorts them: where several are equal the same sort gives the same order.
        return torch.sort(routing.expert).indices
    return routing.expert.eq(expert).nonzero()[:, 0]


def _by_slot(routing: Routing, expert: int | None) -> Tensor:
    """In the order of slots, and of tokens within one."""
    slots = routing.slots
    pair = torch.arange(len(routing.expert), device=routing.expert.device).view(-1, slots).T.reshape(-1)
    among = routing.expert[pair]
    return pair[among.eq(expert)] if expert is not None else pair[torch.sort(among, stable=True).indices]


def _stable(routing: Routing, expert: int | None) -> Tensor:
    """Sorted by expert, in the order of tokens within one."""
    return _own(routing, expert) if expert is not None else torch.sort(routing.expert, stable=True).indices


ORDERS: dict[str, Pairs] = {"slots": _by_slot, "tokens": _own, "stable": _stable}
