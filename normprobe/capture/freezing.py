"""From what a probe holds while the model runs to tables: of each open window, or of the whole run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from normprobe.capture.coverage import RunCoverage, why_unseen
from normprobe.capture.forwards.data_share import DataShare
from normprobe.capture.forwards.phases import Phase
from normprobe.capture.forwards.run_info import describe
from normprobe.capture.hook_callbacks import HookCallbacks
from normprobe.capture.hooks.torch_internals import ModesAside
from normprobe.capture.states.site_state import nbytes
from normprobe.capture.stored_nonfinite import any_nonfinite, stored_nonfinite
from normprobe.tables.frames import Tables, build_tables
from normprobe.tables.records import ExpertRecord, LayerRecord
from normprobe.tables.window_facts import WindowFacts


@dataclass(eq=False)
class _Reported:
    """What windows that were closed said of what the probe counts over all of them."""

    forwards: int = 0
    weight_changes: int = 0


class Freezer:
    """Makes tables of the windows of one probe that are open.

    What belongs to no window (forwards that were no runs, how running statistics moved, how often weights
    changed) is told by one of those that close together, so that their merge has it once.
    """

    def __init__(self, model: nn.Module, callbacks: HookCallbacks, part: str) -> None:
        """Keep whose windows they are.

        Args:
            model: the probed model.
            callbacks: what its hooks measure.
            part: the name of the probe's share of the data.
        """
        self._model, self._callbacks, self._part = model, callbacks, part
        # Of a run that is resumed others were counted before.
        self._reported = _Reported(callbacks.forwards.runs)

    def freeze(self, options: dict[str, Any]) -> list[Tables]:
        """The tables of each open window, with the probe's options and warnings, entries of ``meta``."""
        callbacks = self._callbacks
        with callbacks.lock, ModesAside(), callbacks.forwards.lock:  # other threads may be measuring
            phases = callbacks.forwards.phases
            phases.settle()
            return self._frozen(phases.open(), options)

    def nothing(self, options: dict[str, Any]) -> Tables:
        """The tables of a run of which nothing was measured."""
        with self._callbacks.lock:
            return self._tables(None, options, first=True)

    def close(self, phases: list[Phase], options: dict[str, Any]) -> list[Tables]:
        """The tables of the open windows of these phases, which are forgotten."""
        callbacks = self._callbacks
        with callbacks.lock, ModesAside(), callbacks.forwards.lock:
            callbacks.forwards.phases.settle()
            made = self._frozen(phases, options, drop=True)
            if made:
                self._reported.weight_changes = callbacks.weight_changes.count
                callbacks.forwards.skipped.clear()
            return made

    def _frozen(self, phases: list[Phase], options: dict[str, Any], *, drop: bool = False) -> list[Tables]:
        callbacks, contents = self._callbacks, self._callbacks.windows
        now = contents.phase
        if not phases:
            return []
        # Running statistics move in training.
        first = next((phase for phase in phases if phase.trained), phases[0])
        counted = callbacks.forwards.phases.all() if drop else phases
        rest = callbacks.forwards.runs - self._reported.forwards - sum(phase.forwards for phase in counted)
        made = []
        for phase in phases:
            contents.enter(phase.name, to_show=True)
            made.append(
                self._tables(phase, options, first=phase is first, others=rest if phase is first else 0)
            )
            if drop:
                self._reported.forwards += made[-1].facts["forwards"]
                contents.drop()
                phase.reopen()
        if drop:
            for state in callbacks.states.values():
                state.buffers.restart()
        elif now is not None:
            contents.enter(now)
        return made

    def _tables(
        self, phase: Phase | None, options: dict[str, Any], *, first: bool, others: int = 0
    ) -> Tables:
        """The tables of what the states hold now."""
        callbacks = self._callbacks
        skipped = callbacks.forwards.skipped if first else {}
        records = self._records(skipped, moves=first)
        meta = self._meta(phase, options, first=first, others=others)
        # A pass over all that the model stores: only where the cause of NaN or Inf is asked for.
        if any_nonfinite(records):
            meta["stored_nonfinite"] = stored_nonfinite(self._model)
        step_of = int if phase is None else partial(callbacks.forwards.phases.step_of, phase)
        return build_tables(records, meta, self._part, step_of, self._expert_records())

    def _expert_records(self) -> list[ExpertRecord]:
        experts = self._callbacks.experts
        states = [] if experts is None else list(experts.states.values())
        return [record for state in states if (record := state.record()) is not None]

    def _records(self, skipped: Mapping[str, int], *, moves: bool) -> list[LayerRecord]:
        callbacks = self._callbacks
        # A layer may hold others, which are its parts.
        called = {id(state.layer.module) for state in callbacks.states.values() if state.firings}
        coverage = RunCoverage.of(
            self._model,
            callbacks.entered | called,
            callbacks.forwards,
            callbacks.layers(),
            callbacks.function_capture.reads,
            experts=frozenset() if callbacks.experts is None else callbacks.experts.measured(),
        )
        # In order of definition; what only its use made a layer comes last, by name.
        states = sorted(
            callbacks.states.values(), key=lambda state: state.layer.name if state.layer.by_use else ""
        )
        return [
            state.record(why_unseen(coverage, state.layer), skipped, moves=moves)
            for state in states
            if state.confirmed
        ]

    def _meta(
        self, phase: Phase | None, options: dict[str, Any], *, first: bool, others: int
    ) -> dict[str, Any]:
        """The circumstances of the recording, as JSON holds them."""
        callbacks = self._callbacks
        states, forwards = callbacks.states.values(), callbacks.forwards
        # A dictionary, not a set: the order is that of the layers, not of hashes.
        modes = {mode: None for state in states for mode in state.modes}
        experts = [] if callbacks.experts is None else list(callbacks.experts.states.values())
        taken = nbytes(site for state in states for site in state.sites.values())
        changes = callbacks.weight_changes.count - self._reported.weight_changes if first else 0
        facts = callbacks.run_info.facts(self._part, changes)
        window = [] if phase is None else [self._window(phase)]
        return {
            **describe(self._model),
            "forwards": forwards.runs if phase is None else phase.forwards + others,
            "measured": forwards.measured if phase is None else phase.measured,
            **facts,
            **options,
            "warnings": [*options["warnings"], *facts["warnings"]],
            "training": list(modes),
            "nbytes": taken + sum(state.nbytes() for state in experts),
            "parts": [self._part],
            "windows": window,
            **_place(forwards.share),
        }

    def _window(self, phase: Phase) -> WindowFacts:
        """Which window of the run this is."""
        forwards = self._callbacks.forwards
        return {
            "part": self._part,
            "phase": phase.name,
            "first": phase.ordinal,
            "last": phase.ordinal,
            "first_step": phase.first_step or 0,
            "last_step": phase.last_step or 0,
            "forwards": phase.forwards,
            "first_call": phase.first_call or 0,
            "last_call": phase.last_call or 0,
            "calls": forwards.calls,
            "examples": forwards.examples,
        }


def _place(share: DataShare) -> dict[str, Any]:
    """Which share of the data, and which stage of a pipeline, is this one's, where there are others."""
    facts: dict[str, Any] = {}
    if share.deal.size > 1:
        facts["share"] = {"rank": share.deal.rank, "world_size": share.deal.size}
    if share.stage is not None:
        facts["stage"] = list(share.stage)
    return facts
