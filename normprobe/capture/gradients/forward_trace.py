"""What of a forward its gradients need once it has ended: its numbers, and what is chosen by them."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from normprobe.capture.identity.numbered import Numbered
from normprobe.capture.states.layer_state import LayerState
from normprobe.samples.dealing import Deal


@dataclass(eq=False)
class RecentTensors:
    """Moments of gradients just measured, for other layers that have them, as a `ForwardState` has them.

    Attributes:
        recent: of the extension.
        threads: how many threads may measure one tensor.
    """

    recent: Any = None
    threads: int = 1


@dataclass(eq=False)
class ForwardTrace:
    """A forward as its gradients see it; it stands in for a `Forward` where samples are chosen.

    The hooks of its tensors hold it, so it lives as long as they: as the graph. It holds no tensor.

    Attributes:
        call: running number of the forward.
        first: running number of its first example, in this process.
        deal: the numbers of its examples over all processes.
        labels: the text of each sample.
        with_gradients: whether gradients were on as it began.
        phase: the phase of the run that it is of, by name.
        state: moments of gradients just measured.
        sequences: empty: its samples are numbered; so is `placements`.
        selections: which samples count and are kept, as a forward has it; likewise `rows`.
        recent: moments of tensors just measured, where the compiled kernel does not hold them.
        calls: how many calls of each layer (by index) were measured at each site.
        task: the last backward in which one of its tensors had a gradient.
    """

    call: int
    first: int
    deal: Deal
    labels: Any
    with_gradients: bool
    phase: str
    state: RecentTensors
    sequences: dict[Any, Any] = field(default_factory=dict)
    placements: dict[Any, Any] = field(default_factory=dict)
    selections: dict[Any, Any] = field(default_factory=dict)
    rows: dict[Any, Any] = field(default_factory=dict)
    recent: dict[Any, Any] = field(default_factory=dict)
    calls: dict[tuple[int, str], int] = field(default_factory=dict)
    task: int = -1
    _hooks: dict[int, tuple[weakref.ref[Tensor], int, weakref.ref[Any]]] = field(default_factory=dict)

    def count(self, state: LayerState, site: str, numbered: Numbered) -> None:
        """Count a call that was measured at a site."""
        self.calls[state.index, site] = max(self.calls.get((state.index, site), 0), numbered.repeat + 1)

    def hook_of(self, tensor: Tensor) -> Any:
        """The hook that was put on a tensor in this forward, unless it was written to since."""
        known = self._hooks.get(id(tensor))
        # By weak references: ids are used again, and the hook must go with the graph.
        if known is None or known[0]() is not tensor or known[1] != tensor._version:
            return None
        return known[2]()

    def keep_hook(self, tensor: Tensor, hook: Any) -> None:
        """Remember the hook of a tensor, for other layers that read it."""
        self._hooks[id(tensor)] = weakref.ref(tensor), tensor._version, weakref.ref(hook)
