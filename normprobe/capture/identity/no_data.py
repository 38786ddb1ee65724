"""Calls of a layer that are on no data of the forward: on an identity matrix, a table, a learned token.

Adapters that scale by the norm of their weight (DoRA; Liu et al. 2024, arXiv:2402.09353) call their Linears
on an identity matrix in each forward. What is data is told by the leading sizes: if they fit the batch, it
is. A layer none of whose calls fit (experts, windows) is measured all the same, so is one that reads another
argument of the forward; a call is left out only where another of the same layer and forward fits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normprobe.capture.forwards.forward import Forward
from normprobe.capture.states.layer_state import LayerState
from normprobe.capture.states.site_state import SiteState
from normprobe.samples.layout import Grid, Layout, decide
from normprobe.vocabulary import GRADIENT_OF, OUTPUT

LEFT_OUT = "a call of leading sizes {}, on what is no data of the forward, is left out"


def is_no_data(
    state: LayerState, name: str, tensor: Tensor, sizes: tuple[int, ...], *, forward: Forward, grid: Grid
) -> bool:
    """Whether a call is on no data; where the first one that is shows late, its numbers are forgotten.

    Args:
        state: the layer.
        name: the site.
        tensor: the tensor there.
        sizes: the sizes of its axes that number samples.
        forward: the forward.
        grid: its batch, as the layer sees it.
    """
    site = state.sites[name]
    # As many rows as were routed to it: another number at each call says nothing.
    if state.layer.expert is not None and len(sizes) == 1 and sizes not in forward.identities:
        return False
    if sizes in site.no_data:
        _note(state, name, sizes, 1)
        return True
    identity = _made_of_identity(site, tensor, sizes, forward)
    fitting = not identity and decide(sizes, grid) is not Layout.UNALIGNED
    if not fitting and not _may_be_none(sizes, forward):
        return False
    # Of this forward alone: an expert whose share is as large as the batch once is no proof for others.
    before = forward.fitting.setdefault((state.index, name), {})
    others = [held for held, fits in before.items() if fits is not fitting]
    before[sizes] = fitting
    if not others:
        return False
    if fitting:
        # Those before it that did not fit were measured, in this forward and in earlier ones.
        forgotten, site.no_data = site.counters.calls, {*site.no_data, *others}
        site.reset(state.empty_site())
        if GRADIENT_OF.get(name) in state.sites:
            state.sites[GRADIENT_OF[name]].reset(state.empty_site())
        _note(state, name, others[0], forgotten)
        return False
    site.no_data = {*site.no_data, sizes}
    _note(state, name, sizes, 1)
    return True


def _note(state: LayerState, name: str, sizes: tuple[int, ...], count: int) -> None:
    if name != OUTPUT:  # which has the same calls
        text = LEFT_OUT.format(sizes)
        state.reasons[text] = state.reasons.get(text, 0) + count


def _may_be_none(sizes: tuple[int, ...], forward: Forward) -> bool:
    """Whether leading sizes that do not fit the batch may be those of no data.

    Not if they are of another argument, or of several rows of each example. Fewer rows than examples may be
    those that a recurrent net or a halting one goes on with, unless they are an identity matrix or one row.
    """
    batch, first = forward.batch.size, sizes[0]
    if first in forward.argument_sizes or batch in sizes:
        return False
    if len(sizes) > 1 and batch > 1 and first % batch == 0:
        return False
    return first > batch or first == 1 or sizes in forward.identities


def _made_of_identity(site: SiteState, tensor: Tensor, sizes: tuple[int, ...], forward: Forward) -> bool:
    """Whether a tensor is an identity matrix, or has as many rows as one in this forward: is made of it."""
    if sizes in forward.identities:
        return True
    square = tensor.dim() == 2 and tensor.shape[0] == tensor.shape[1] > 1
    # An accelerator waits for the answer, so it is asked until it is no once.
    if not square or sizes in site.no_identities:
        return False
    if torch.equal(tensor, torch.eye(len(tensor), dtype=tensor.dtype, device=tensor.device)):
        forward.identities.add(sizes)
        return True
    site.no_identities.add(sizes)
    return False
