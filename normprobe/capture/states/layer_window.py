"""What of a layer's state is of one window: handed over as phases alternate, forgotten when it closes."""

from __future__ import annotations

from typing import Any

from normprobe.capture.states.layer_state import LayerState

_FRESH: dict[str, type] = {
    "modes": dict,
    "grads": dict,
    "masked_by": dict,
    "reasons": dict,
    "noted_modes": set,
    "functional_calls": int,
    "unmasked": int,
    "train_in_eval": int,
    "parameters": dict,
}
"""What a layer's state notes in a window, and how it begins; beside it stand the vectors and the sites."""


def take(state: LayerState) -> dict[str, Any]:
    """Hand over what was measured and noted in a window, for `put`; what the layer is stays."""
    held = {name: getattr(state, name) for name in _FRESH}
    # The vectors of its last call: they are replaced, never written to.
    vectors = state.shown_vectors or dict(state.vectors)
    return held | {"vectors": vectors, "sites": {name: site.take() for name, site in state.sites.items()}}


def put(state: LayerState, held: dict[str, Any] | None, *, to_show: bool) -> None:
    """Go on with a window that was handed over, or with a fresh one.

    Args:
        state: the layer's.
        held: what `take` gave; None for a fresh window.
        to_show: whether to record the vectors of then: the layer may have other ones since.
    """
    state.reopened, state.shown_vectors = True, held["vectors"] if held and to_show else None
    for name, fresh in _FRESH.items():
        setattr(state, name, fresh() if held is None else held[name])
    for name, site in state.sites.items():
        site.put(None if held is None else held["sites"].get(name), state.empty_reservoirs)
