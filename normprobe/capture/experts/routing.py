"""Which rows of a call of a module of experts go to which expert, as its arguments say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normprobe.layers.layer import ExpertModule

SCALED = "its rows come multiplied by the router's score, and are measured so"
UNTOLD = "its call does not say which rows go to which expert"


@dataclass(frozen=True, eq=False)
class Routing:
    """The rows of one call: pairs of a token and an expert.

    Attributes:
        hidden: what is read, shape (tokens, features).
        expert: of each pair its expert, int64, shape (pairs,); others than 0 to count - 1 are no expert here.
        token: of each pair the row of ``hidden``, shape (pairs,).
        weight: of each pair how much the output counts, shape (pairs,); None where the call does not say it.
        positions: how many positions of the batch there are; 0 where nothing says which a row is.
        position: of each row of ``hidden`` which of these it is; None where that is its number.
        form: pairs, all (every token to every expert) or sorted (rows in the order of experts).
        slots: how many experts a token goes to, of pairs.
    """

    hidden: Tensor
    expert: Tensor
    token: Tensor
    weight: Tensor | None
    positions: int
    position: Tensor | None
    form: str
    slots: int = 1


def routing_of(holder: ExpertModule, given: Iterable[Any]) -> Routing | None:
    """The rows of a call with these arguments; None where they are of no known form.

    Args:
        holder: the module.
        given: its arguments, positional ones first.
    """
    values = list(given)
    tensors = [value for value in values if isinstance(value, Tensor)]
    floating = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.dim() > 1]
    # As wide as experts say they read: routing weights may come first.
    rows = next((t for t in floating if t.shape[-1] == holder.width), next(iter(floating), None))
    if rows is None or not rows.shape[-1]:
        return None
    hidden = rows.detach().reshape(-1, rows.shape[-1])
    index = next((t for t in tensors if _is_index(t, len(hidden))), None)
    if index is not None:
        return _pairs(hidden, index, tensors, rows)
    counts = next((value for value in values if _are_counts(value, holder.count, len(hidden))), None)
    if counts is not None:
        return _sorted(hidden, torch.tensor(counts))
    # With more arguments it would be a guess: by chance many batches are a multiple of the experts.
    if len(tensors) == 1 and len(hidden) % holder.count == 0 and rows.dim() == 2:
        return _to_all(hidden, holder.count)
    return None


def _is_index(tensor: Tensor, tokens: int) -> bool:
    # Flags of (tokens, experts) have the form of an index, too, but name no experts.
    whole = not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool
    return whole and tensor.dim() == 2 and len(tensor) == tokens


def _are_counts(value: Any, experts: int, rows: int) -> bool:
    whole = isinstance(value, (list, tuple)) and all(isinstance(entry, int) for entry in value)
    # Both must fit, for any list of integers may be among the arguments.
    return whole and len(value) == experts and sum(value) == rows


def _pairs(hidden: Tensor, index: Tensor, tensors: list[Tensor], rows: Tensor) -> Routing:
    """Each token with the experts that an index of shape (tokens, slots) names."""
    alike = (t for t in tensors if t is not rows and t.is_floating_point() and t.shape == index.shape)
    weight = next(alike, None)
    slots = index.shape[1]
    token = torch.arange(index.numel(), device=index.device) // max(slots, 1)
    flat = None if weight is None else weight.detach().reshape(-1)
    expert = index.detach().reshape(-1).long()
    return Routing(hidden, expert, token, flat, len(hidden), None, "pairs", slots)


def _sorted(hidden: Tensor, counts: Tensor) -> Routing:
    """Rows in the order of experts, so many of each: which token each is nothing says."""
    # Repeated on the CPU: on an accelerator the size of the result would have to be waited for.
    expert = torch.repeat_interleave(torch.arange(len(counts)), counts).to(hidden.device)
    token = torch.arange(len(hidden), device=hidden.device)
    return Routing(hidden, expert, token, None, 0, None, "sorted")


def _to_all(hidden: Tensor, experts: int) -> Routing:
    """Every token at every expert, one expert after the other; rows of zeros are those not chosen."""
    tokens = len(hidden) // experts
    row = torch.arange(len(hidden), device=hidden.device)
    # A score of 0 multiplies the rows of experts that were not chosen.
    chosen = hidden.ne(0).any(1)
    expert = torch.where(chosen, row // max(tokens, 1), experts)
    return Routing(hidden, expert, row, None, tokens, row % max(tokens, 1), "all")
