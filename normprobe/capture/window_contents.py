"""What was measured in the open window of each phase: of one phase it lies in the states, of others aside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from normprobe.capture.experts.expert_capture import ExpertCapture
from normprobe.capture.forwards.run_info import RunInfo
from normprobe.capture.states.layer_state import LayerState
from normprobe.capture.states.layer_window import put, take


class WindowContents:
    """Swaps what the layers of one probe measured as phases alternate; who calls it holds the probe's lock.

    The hooks measure into the states that they know, whatever the phase: so a forward of another phase costs
    a pass over the states before it, and none costs anything otherwise.
    """

    def __init__(
        self, states: Mapping[Any, LayerState], run_info: RunInfo, experts: ExpertCapture | None
    ) -> None:
        self._states, self._run_info, self._experts = states, run_info, experts
        self._phase: str | None = None
        self._aside: dict[str, dict[Any, Any]] = {}

    @property
    def phase(self) -> str | None:
        """The phase that is measured for now; None before the first."""
        return self._phase

    def enter(self, phase: str, *, to_show: bool = False) -> None:
        """Measure for a phase from now on, or show what was measured for it, with the vectors of then."""
        if phase == self._phase:
            return
        if self._phase is not None:
            held = {key: take(state) for key, state in self._states.items()}
            of_experts = None if self._experts is None else self._experts.take()
            self._aside[self._phase] = held | {"data": self._run_info.take(), "experts": of_experts}
            self._put(self._aside.pop(phase, {}), to_show=to_show)
        # Else nothing was measured yet, or the window before was dropped: the states are fresh.
        elif phase in self._aside:
            self._put(self._aside.pop(phase), to_show=to_show)
        self._phase = phase

    def drop(self) -> None:
        """Forget what was measured for the phase that is measured for now: its window was closed."""
        self._run_info.take()
        self._put({})
        self._phase = None

    def _put(self, held: dict[Any, Any], *, to_show: bool = False) -> None:
        self._run_info.put(held.get("data", {}))
        if self._experts is not None:
            self._experts.put(held.get("experts") or {})
        # Layers that were found since have nothing in a window of before.
        for key, state in self._states.items():
            put(state, held.get(key), to_show=to_show)
