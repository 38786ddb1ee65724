"""A tensor at a site of a layer, as it is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from normprobe.capture.forwards.forward import Forward
from normprobe.capture.identity.tensor_parts import Sharding
from normprobe.capture.states.layer_state import LayerState
from normprobe.capture.states.site_state import SiteState


@dataclass(frozen=True, eq=False)
class Observation:
    """A tensor at a site of a layer.

    Attributes:
        state: the layer's running state.
        name: the site's name.
        tensor: the tensor.
        forward: the forward.
        sequence: what the layer works on in it.
        repeat: which of the layer's calls in it this is.
        graphs: of a norm over graphs, which graph each row is of; None where its call told none apart.
        sharding: which part of a whole tensor it is, where that is spread over processes.
    """

    state: LayerState
    name: str
    tensor: Tensor
    forward: Forward
    sequence: Any
    repeat: int
    graphs: Tensor | None = None
    sharding: Sharding | None = None

    @property
    def site(self) -> SiteState:
        """The site's running state."""
        return self.state.sites[self.name]

    @property
    def whole_shape(self) -> tuple[int, ...]:
        """The sizes of the whole tensor."""
        return tuple(self.tensor.shape) if self.sharding is None else self.sharding.shape
