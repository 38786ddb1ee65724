"""Whether the entries of a list hand on one stream: told from the first call of each, input against output.

A list may hold modules that are called beside each other (experts, heads, branches), or whose outputs are
something else by the time that the next reads them. These are no blocks of a residual stream.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

BESIDE = "it reads what {} reads: they run beside each other, and are no blocks of one stream"
APART = "it does not read what an entry of its list gave before it; if it is a block, name it by residual="
_ENTRIES = 64
"""How many numbers of a tensor are compared."""


class Refusable(Protocol):
    """A layer's state, as far as a chain needs it."""

    refused: str

    @property
    def name(self) -> str:
        """The layer's name."""

    def refuse(self, why: str) -> None:
        """Measure the layer no further."""


class _Call(NamedTuple):
    state: Refusable
    read: object
    gave: object


class BlockChain:
    """What the first calls of the entries of one list show; who uses it holds the probe's lock.

    Attributes:
        seen: whether an entry read what another one, or itself a call before, had given.
    """

    def __init__(self) -> None:
        self.seen = False
        self._forward: int | None = None
        self._calls: list[_Call] = []
        self._complete = True

    def enter(self, forward: int, *, first: bool) -> None:
        """Compare within the forward of this number alone: in the next one the numbers are others.

        Args:
            forward: its running number.
            first: whether the call is an entry's first one. What later ones give is not looked at, so a
                forward with such shows no entry to be none.
        """
        if forward != self._forward:
            self._forward, self._calls, self._complete = forward, [], True
        self._complete = self._complete and first

    def follow(self, state: Refusable, before: Tensor, after: Tensor) -> bool:
        """Whether an entry continues the chain; if it shows that there is none, entries are refused.

        Args:
            state: the entry's.
            before: what its first call read, as it was then.
            after: what that gave.
        """
        call = _Call(state, _digest(before), _digest(after))
        earlier = list(self._calls)
        self._calls.append(call)
        if any(call.read == other.gave for other in earlier):
            self.seen = True
            return True
        others = [other for other in earlier if other.state is not state]
        if others and self._complete:
            beside = next((other for other in others if call.read == other.read), None)
            why = APART if beside is None else BESIDE.format(beside.state.name)
            # Of those before it nothing has shown that they are any, unless one has.
            for entry in (state, *({id(o.state): o.state for o in others}.values() if not self.seen else ())):
                if not entry.refused:
                    entry.refuse(why)
        return False


def _digest(tensor: Tensor) -> object:
    """Some of a tensor's numbers, at equal distances: those of two tensors are equal if they are."""
    if tensor.is_nested:
        return tuple(_digest(part) for part in tensor.unbind())
    flat = tensor.detach().reshape(-1)
    # float32 holds whole numbers up to 2**24 only, and tensors are larger than that.
    places = torch.linspace(0, max(len(flat) - 1, 0), min(_ENTRIES, len(flat)), dtype=torch.float64).long()
    # As bytes, so that NaN is equal to NaN.
    return tuple(tensor.shape), flat[places.to(flat.device)].double().cpu().numpy().tobytes()
