"""The face of measuring: `Probe`, a block that measures a model, and `record`, which also runs it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from normprobe.capture.coverage import RunCoverage, why_unseen
from normprobe.capture.forwards.probe_options import LabelsOf, MaskOption, check_options, shown
from normprobe.capture.forwards.run_info import describe
from normprobe.capture.hook_callbacks import HookCallbacks
from normprobe.capture.hooks.handles import Hooks
from normprobe.capture.hooks.interrupts import finish
from normprobe.capture.live_pairs.batch_arguments import BatchArguments
from normprobe.capture.states.site_state import nbytes
from normprobe.capture.stored_nonfinite import any_nonfinite, stored_nonfinite
from normprobe.errors import NormprobeError
from normprobe.layers.find import LayerFilter, find_layers
from normprobe.recording import Recording
from normprobe.tables.frames import build_tables
from normprobe.tables.records import valid_name


class Probe:
    """Measures every Linear and normalization layer of a model while the block runs.

    >>> with normprobe.Probe(model) as probe:
    ...     for batch in batches:
    ...         model(**batch)
    >>> probe.recording.layers

    Hooks are attached on entry and none is left after exit. Outputs, gradients, modes and random numbers
    are those of the bare model.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layers: LayerFilter | None = None,
        kinds: str | Iterable[str] | None = None,
        mask: MaskOption = "auto",
        samples: int | Literal["all"] = 1024,
        values: int = 64,
        every: int = 1,
        labels: LabelsOf | None = None,
        part: str | None = None,
        seed: int = 0,
    ) -> None:
        """Choose what to measure; nothing touches the model before the block is entered.

        Args:
            model: any module, also one that is itself a layer.
            layers: glob pattern(s) over qualified names, or a predicate (name, module) -> bool.
            kinds: the kinds to probe: linear, layer_norm, rms_norm, batch_norm, group_norm,
                instance_norm, norm.
            mask: "auto" finds padding masks in the arguments of the model's forward; a callable
                (args, kwargs) -> bool tensor (batch, positions), True = real; a dict from layer glob to
                such tensors; None for no mask.
            samples: how many samples per layer and site are kept; "all" keeps every one.
            values: of how many of those the raw row is kept, at norms (at Linear layers 8 at most).
            every: measure forwards 0, every, 2 * every, ...; the others cost nothing.
            labels: (args, kwargs) -> list of lists of str, the text of each sample, for people reading.
            part: names this probe's share of the data, so that nothing is merged twice.
            seed: changes which samples are kept.

        Raises:
            NoLayersError: the model has no Linear or norm, or a filter matches none.
            NormprobeError: an option is out of range.
        """
        if not isinstance(model, nn.Module):
            raise NormprobeError(f"Probe needs a torch.nn.Module, got {type(model).__name__}")
        check_options(samples, values, every, mask)
        self.model = model
        # A uuid is drawn by the system: torch's and Python's generators are the user's.
        self.part = valid_name(part) if part is not None else str(uuid.uuid4())
        # Used on each entry, so what can be read once only becomes a list.
        self._filter = (layers, list(kinds) if kinds is not None and not isinstance(kinds, str) else kinds)
        self._mask = mask
        self._hooks: Hooks | None = None
        self._grad = True
        self._final: Recording | None = None
        self._callbacks = HookCallbacks(
            mask=mask,
            labels=labels,
            samples=None if samples == "all" else samples,
            values=values,
            every=every,
            seed=seed,
        )
        # Looked for here, so that a filter that fits nothing is an error before anything runs.
        self._callbacks.add_layers(find_layers(model, *self._filter))

    def __enter__(self) -> Self:
        """Attach the hooks.

        Raises:
            NormprobeError: the probe is already active.
        """
        if self._hooks is not None:
            raise NormprobeError(
                "this probe is already active; leave its block first, or make a second Probe"
            )
        # Anew: since the probe was made or left, layers may have been put in.
        found = find_layers(self.model, *self._filter)
        self._grad = torch.is_grad_enabled()
        try:
            self._final, self._hooks = None, Hooks()
            self._callbacks.attach(self.model, found, self._hooks)
            return self
        except BaseException:
            self._detach()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove every hook, whatever happened."""
        try:
            self._detach()
        finally:
            # Again, should an interrupt have come between two steps; what is done is not done twice.
            self._detach()

    @property
    def recording(self) -> Recording:
        """A frozen snapshot of what was measured so far; also inside the block."""
        if self._final is not None:
            return self._final
        callbacks = self._callbacks
        with callbacks.lock:  # other threads may be measuring
            # A layer may hold others, which are its parts.
            called = {id(state.layer.module) for state in callbacks.states.values() if state.firings}
            coverage = RunCoverage.of(
                self.model,
                callbacks.entered | called,
                callbacks.forwards,
                callbacks.layers(),
                callbacks.function_capture.reads,
            )
            # In order of definition; what only its use made a layer comes last, by name.
            states = sorted(
                callbacks.states.values(), key=lambda state: state.layer.name if state.layer.by_use else ""
            )
            records = [
                state.record(why_unseen(coverage, state.layer), callbacks.forwards.skipped)
                for state in states
                if state.confirmed
            ]
            meta = self._meta()
            # A pass over all that the model stores: only where the cause of NaN or Inf is asked for.
            if any_nonfinite(records):
                meta["stored_nonfinite"] = stored_nonfinite(self.model)
            recording = Recording(build_tables(records, meta, self.part))
        # While the block lasts more may be measured.
        if self._hooks is None:
            self._final = recording
        return recording

    def _detach(self) -> None:
        if self._hooks is not None:
            finish(self._hooks.remove, *self._callbacks.leaving(self._grad), self._forget_hooks)

    def _forget_hooks(self) -> None:
        self._hooks = None

    def _meta(self) -> dict[str, Any]:
        """The circumstances of the recording, as JSON holds them."""
        callbacks = self._callbacks
        states, forwards = callbacks.states.values(), callbacks.forwards
        options = {
            "layers": shown(self._filter[0]),
            "kinds": shown(self._filter[1]),
            "mask": shown(self._mask),
            "samples": "all" if callbacks.samples is None else callbacks.samples,
            "values": callbacks.values,
            "every": forwards.every,
            "seed": callbacks.seed,
        }
        # A dictionary, not a set: the order is that of the layers, not of hashes.
        modes = {mode: None for state in states for mode in state.modes}
        return {
            **describe(self.model),
            "forwards": forwards.calls,
            "measured": forwards.measured,
            **callbacks.run_info.facts(self.part),
            "training": list(modes),
            "nbytes": nbytes(site for state in states for site in state.sites.values()),
            "parts": [self.part],
            "options": options,
        }


def record(
    model: nn.Module, batches: Any, *, progress: Callable[[int], None] | None = None, **options: Any
) -> Recording:
    """Run a model over batches in evaluation mode, without gradients, and measure it.

    >>> recording = normprobe.record(model, [torch.randn(8, 100)])
    >>> recording = normprobe.record(model, loader, layers="encoder.*", samples="all")

    Args:
        model: the model; its modes are as before afterwards.
        batches: an iterable of tensors, of tuples or lists (positional arguments) or of mappings (keyword
            arguments); a single tensor or mapping counts as one batch. Of a longer tuple, as a loader of
            inputs and labels gives it, as many leading items are used as the forward takes; ``meta`` says so
            in ``warnings``.
        progress: called with the number of batches done, after each.
        **options: as `Probe` takes them.

    Raises:
        NoLayersError: there is nothing to probe.
        NormprobeError: an option or a batch is not of the form above.
    """
    # Of anything else Probe says what is wrong with it.
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    probe = Probe(model, **options)
    try:
        for module, _ in modes:
            module.training = False
        # Not inference_mode: its tensors have no version, by which one is measured once for all its readers.
        with probe, torch.no_grad():
            left_out = run_batches(model, batches, progress)
    finally:
        for module, mode in modes:
            module.training = mode
    recording = probe.recording
    if not left_out:
        return recording
    return recording.annotate(warnings=[*recording.meta["warnings"], left_out])


def run_batches(model: nn.Module, batches: Any, progress: Callable[[int], None] | None = None) -> str:
    """Call a model on each batch, as `record` takes them, in whatever modes it is.

    Args:
        model: the model.
        batches: an iterable of batches, or a single tensor or mapping.
        progress: called with the number of batches done, after each.

    Returns:
        What of the batches was left out, since the forward does not take it, in a sentence; "" for nothing.

    Raises:
        NormprobeError: a batch is not of a form that `record` takes.
    """
    arguments = BatchArguments(model)
    for done, batch in enumerate([batches] if isinstance(batches, (Tensor, Mapping)) else batches, 1):
        args, kwargs = arguments.of(batch)
        model(*args, **kwargs)
        if progress is not None:
            progress(done)
    return arguments.left_out
