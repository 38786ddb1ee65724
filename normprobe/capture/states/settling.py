"""What a call shows of how a layer is read: the first one, or the first that can tell."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from normprobe.capture.calls.norm_facts import ShownByCall
from normprobe.capture.calls.readings import Pair, PairChoice, fitting_pair
from normprobe.capture.states.layer_state import MOST_UNDECIDED, LayerState
from normprobe.layers.further_kinds import channel_axis
from normprobe.layers.linear_rule import why_no_linear
from normprobe.layers.norms.identify import NO_WAY, UNTOLD, Identification, identify
from normprobe.layers.view import AXES, REPEATS

OTHER_SHAPE = "its output has shape {} for an input of {}: no block of a residual stream"
NOT_ELEMENTWISE = "its output has shape {} for an input of {}: not elementwise"


def settle(state: LayerState, module: nn.Module, choice: PairChoice) -> Pair:
    """Correct the view of a layer by what a call shows.

    Args:
        state: the layer's.
        module: the layer.
        choice: what the call may have read and written.

    Returns:
        What it did read and write.
    """
    if state.view.kind == "linear":
        return _settle_linear(state, module, choice)
    if state.view.kind == "residual":
        return _settle_block(state, module, choice)
    return _settle_norm(state, module, choice) if state.scaled else _settle_elementwise(state, choice)


def _settle_linear(state: LayerState, module: nn.Module, choice: PairChoice) -> Pair:
    pair = fitting_pair(choice.pairs, state.layer.n_features)
    if not state.settled:
        # An empty batch shows nothing, so the next call is asked again.
        state.settled = bool(pair.before.numel())
        if state.settled and (why := why_no_linear(module, state.view, pair.before, pair.after)):
            state.refuse(why)
    return pair


def _settle_norm(state: LayerState, module: nn.Module, choice: PairChoice) -> Pair:
    first = choice.pairs[0]
    if not choice.possible and not state.settled:
        before, after = first.before.numel(), first.after.numel()
        state.refuse(f"its output has {after} elements for an input of {before}: not a norm")
    if not choice.possible or not choice.possible[0].before.numel():
        return first
    # Once something is recorded the axis stays: sums over other features cannot be added.
    recorded = any(site.counters.calls for site in state.sites.values())

    def shown(pair: Pair, *, thorough: bool) -> Identification:
        given = pair.before, pair.after, choice.others(pair.input)
        return identify(module, state.view, *given, recorded=recorded, thorough=thorough)

    pair, found = choice.best(shown)
    if not state.settled:
        _adopt(state, found, training=module.training)
    elif found.normalizes == "other" and state.normalizes == "input":
        state.normalizes = "other"
        state.reasons[found.reason] = 1
    state.unlike = state.normalizes == "input" and found.decided and found.way == NO_WAY
    return pair


def _adopt(state: LayerState, found: Identification, *, training: bool) -> None:
    """Read the layer from now on as a call showed."""
    state.undecided_calls += 1
    state.settled = found.decided or state.undecided_calls == MOST_UNDECIDED
    state.view, state.offset, state.factor = found.view, found.offset, found.factor
    state.normalizes, state.shown = found.normalizes, ShownByCall.of(found, training=training)
    state.reasons.pop(UNTOLD, None)  # of a call before this one
    if found.reason:
        state.reasons[found.reason] = 1
    if found.refused:
        state.refuse(found.refused)


def _settle_block(state: LayerState, module: nn.Module, choice: PairChoice) -> Pair:
    """A block hands on what it was given, of the same shape, and its successor reads it."""
    pair = choice.of_input(choice.form[0])
    if state.settled or not _numbers(pair.before):
        return pair
    plain = not pair.before.is_nested
    if state.undecided_calls == 0 and plain and channel_axis(module, tuple(pair.before.shape)):
        state.view = replace(state.view, axis=1, sample="example")
    # Also of one that is none itself: the next one reads what it gave.
    follows = state.chain is None or state.chain.follow(state, pair.before, pair.after)
    if not _same_shape(pair):
        state.refuse(OTHER_SHAPE.format(_shape(pair.after), _shape(pair.before)))
        return pair
    state.undecided_calls += 1
    if state.view.unconfirmed != REPEATS:
        state.settled = True
    elif follows:
        # Not `unconfirmed` any more: that it repeats has shown.
        state.settled, state.view = True, replace(state.view, unconfirmed="")
    elif state.undecided_calls == MOST_UNDECIDED:
        state.refuse("it is called once a forward")
    return pair


def _settle_elementwise(state: LayerState, choice: PairChoice) -> Pair:
    pair = next((pair for pair in choice.pairs if _same_shape(pair)), choice.pairs[0])
    if not state.settled and _numbers(pair.before):
        state.settled = True
        if not _same_shape(pair):
            state.refuse(NOT_ELEMENTWISE.format(_shape(pair.after), _shape(pair.before)))
        elif _is_image(state, pair.before):
            state.view = replace(state.view, axis=1, sample="example")
    return pair


def _is_image(state: LayerState, tensor: Tensor) -> bool:
    """Whether an elementwise function reads images: four axes or more, no neighbour as wide as the last."""
    if tensor.is_nested or tensor.dim() < 4 or state.view.axis != -1:
        return False
    return state.view.unconfirmed == AXES or tensor.shape[-1] != state.layer.n_features


def _numbers(tensor: Tensor) -> bool:
    return tensor.is_nested or bool(tensor.numel())


def _shape(tensor: Tensor) -> object:
    return "several tensors" if tensor.is_nested else tuple(tensor.shape)


def _same_shape(pair: Pair) -> bool:
    return bool(_shape(pair.before) == _shape(pair.after))
