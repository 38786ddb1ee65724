"""Which tokens the rows are that experts of a list read, where the call of the list says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from normprobe.capture.forwards.forward import Forward, Sequence
from normprobe.layers.layer import Layer
from normprobe.samples.layout import Grid
from normprobe.samples.masks import Padding

ListedRows = Mapping[int, NDArray[np.int64]]
"""Of each expert the tokens that it reads, in order."""


def rows_by_expert(module: nn.Module, given: tuple[Any, ...]) -> ListedRows | None:
    """The tokens of each expert in a call of their list with (hidden, choices, weights); None of other calls.

    Args:
        module: the list; it may be called as one has a forward of its own.
        given: its arguments. Choices are ones among zeros, shape (tokens, slots, experts).
    """
    tensors = [value for value in given if isinstance(value, Tensor)]
    if len(tensors) < 2 or tensors[0].dim() != 2 or not tensors[0].is_floating_point():
        return None
    tokens, count = len(tensors[0]), sum(1 for _ in module.children())
    choices = next((t for t in tensors[1:] if t.dim() == 3), None)
    if choices is None or choices.is_floating_point() or choices.shape[::2] != (tokens, count):
        return None
    # Slot by slot, as `torch.where` over (experts, slots, tokens) gives them.
    chosen = choices.detach().permute(2, 1, 0).cpu().numpy() != 0
    # In numbers on the host, for which an accelerator is waited for, as by the model's own loop.
    return {expert: np.nonzero(chosen[expert])[1] for expert in range(count)}


def key_of(name: str) -> Any:
    """Under which key of a forward's open calls that of a list of this name stands."""
    return "listed experts", name


def routed_sequence(layer: Layer, tensor: Tensor, forward: Forward, sequence: Sequence) -> Sequence:
    """What a layer inside an expert works on: the tokens that its expert was given, where a call said so."""
    rows: ListedRows | None = forward.opened.get(key_of(layer.expert_of))
    tokens = None if rows is None else rows.get(layer.expert or 0)
    # An expert may be given fewer tokens than chose it, and nothing says which of them.
    if tokens is None or tensor.dim() != 2 or len(tensor) != len(tokens):
        return sequence
    key = (id(sequence), layer.expert_of, layer.expert)
    if key not in forward.sequences:
        placed = _placed(tokens, sequence)
        if placed is None:
            return sequence
        forward.sequences[key] = placed
    return forward.sequences[key]


def _placed(tokens: NDArray[np.int64], sequence: Sequence) -> Sequence | None:
    """The sequence of these tokens alone, as of a packed one; None where they are not of its grid."""
    grid, padding = sequence.grid, sequence.padding
    # The numbers of tokens are read as example by example, which holds for such a grid alone.
    if grid.time is None or grid.time_first or grid.own is not None or grid.packed is not None:
        return None
    if len(tokens) and tokens.max() >= grid.batch * grid.time:
        return None
    real, name = _real(grid, padding)
    example, place = tokens // grid.time, tokens % grid.time
    # Counted among real tokens: a position must not depend on the side of the padding.
    position = place if real is None else (real.cumsum(1) - 1)[example, place]
    kept = None if real is None else real[example, place]
    packed = replace(grid, packed=np.stack([example, position]), packed_real=kept, packed_by=name)
    return replace(sequence, padding=None, grid=packed, labelled=False)


def _real(grid: Grid, padding: Padding | None) -> tuple[NDArray[np.bool_] | None, str]:
    if padding is None or padding.full:
        return None, "" if padding is None else padding.name
    sizes = (grid.batch, grid.time or 1)
    if padding.real.shape[0] not in (1, grid.batch) or padding.real.shape[1] != grid.time:
        return None, ""
    return np.broadcast_to(padding.real, sizes), padding.name


def note_rows(forward: Forward | None, name: str, module: nn.Module, given: tuple[Any, ...]) -> None:
    """A list of experts is called: remember which tokens go to which of them, until the call ends."""
    if forward is not None and forward.state.measured:
        with torch.no_grad():
            rows = rows_by_expert(module, given)
        if rows is not None:
            forward.opened[key_of(name)] = rows
