"""The hook on a tensor that a layer read or wrote, which autograd calls with the gradient of that tensor."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normprobe.capture.gradients.forward_trace import ForwardTrace
from normprobe.capture.identity.numbered import Numbered
from normprobe.capture.states.layer_state import LayerState


class Reader(NamedTuple):
    """A call of a layer that read or wrote a tensor.

    Attributes:
        state: the layer's running state.
        site: where its gradient belongs.
        numbered: the samples.
        calls: of what site the forward's measured calls are counted for it.
        passes: how often the gradient of this call was measured before the hook was made.
    """

    state: LayerState
    site: str
    numbered: Numbered
    of: str
    passes: int = 0


Measure = Callable[["TensorHook", ForwardTrace, Tensor], None]


class TensorHook:
    """Hands the gradient of one tensor on, for each call that read or wrote it; gives autograd nothing back.

    Autograd holds it, in the node that made the tensor, and it holds the forward's trace. A leaf has no such
    node and may outlive every graph: its hook holds the trace weakly and goes with it.

    Attributes:
        readers: the calls.
        passes: in how many backward passes it was called.
        shape: of the tensor that they read or wrote.
    """

    def __init__(self, measure: Measure, trace: ForwardTrace) -> None:
        self.readers: list[Reader] = []
        self.passes, self.shape = 0, torch.Size()
        self._measure = measure
        self._trace: ForwardTrace | None = trace
        self._weak_trace: weakref.ref[ForwardTrace] | None = None
        self._handle: Any = None
        self._leaf: weakref.ref[Tensor] | None = None

    def put_on(self, tensor: Tensor, shape: torch.Size) -> None:
        """Have autograd call it with each gradient of a tensor, which was read or written in this shape."""
        self.shape = shape
        # A hook on a leaf stays with the tensor, which a parameter is for ever.
        if tensor.grad_fn is None and self._trace is not None:
            self._leaf = weakref.ref(tensor)
            self._weak_trace = weakref.ref(self._trace, _removing(weakref.ref(self)))
            self._trace = None
        self._handle = tensor.register_hook(self)  # type: ignore[no-untyped-call]

    def __call__(self, gradient: Tensor | None) -> None:
        """Measure a gradient; None, which autograd gives where there is none, is no gradient."""
        weak = self._weak_trace
        trace = self._trace if weak is None else weak()
        if gradient is not None and trace is not None:
            self._measure(self, trace, gradient)

    @property
    def on_leaf(self) -> bool:
        """Whether its tensor is a leaf, which several forwards may read."""
        return self._leaf is not None

    def remove(self) -> None:
        """Take it off its tensor."""
        if self._handle is not None:
            self._handle.remove()
        leaf = None if self._leaf is None else self._leaf()
        # A dictionary without a hook is a trace, too: a parameter had None there.
        if leaf is not None and leaf._backward_hooks is not None and not leaf._backward_hooks:
            leaf._backward_hooks = None


def _removing(hook: weakref.ref[TensorHook]) -> Callable[[object], None]:
    """What to call when the graph is gone."""

    def remove(_: object) -> None:
        if (found := hook()) is not None:
            found.remove()

    return remove
