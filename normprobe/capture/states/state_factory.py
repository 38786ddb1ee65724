"""Makes the running state of each layer of a probe, with what several of them share."""

from __future__ import annotations

from normprobe.capture.states.block_chains import BlockChain
from normprobe.capture.states.layer_state import LayerState
from normprobe.layers.layer import Layer
from normprobe.samples.reservoir import EmptyReservoirs

_ROWS_OF_LINEAR = 8


class StateFactory:
    """Makes the states of one probe's layers; who calls it holds the probe's lock."""

    def __init__(self, samples: int | None, values: int, *, gradients: bool) -> None:
        """Keep what all states share.

        Args:
            samples: how many samples are kept per layer and site; None for all.
            values: of how many of those the raw row is kept.
            gradients: whether gradients are measured, too.
        """
        self._samples, self._values, self._gradients = samples, values, gradients
        self._reservoirs = EmptyReservoirs(samples)
        self._chains: dict[str, BlockChain] = {}

    def make(self, index: int, layer: Layer) -> LayerState:
        """A fresh state of the layer of this index."""
        rows = min(_ROWS_OF_LINEAR, self._values) if layer.view.kind == "linear" else self._values
        reservoirs = self._reservoirs.of(self._samples), self._reservoirs.of(rows)
        state = LayerState.of(index, layer, *reservoirs, gradients=self._gradients)
        if layer.block_list:
            # One for all entries of a list: what one reads is held against what the others gave.
            state.chain = self._chains.setdefault(layer.block_list, BlockChain())
        return state
