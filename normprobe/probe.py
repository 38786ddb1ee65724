"""The face of measuring: `Probe`, a block that measures a model, and `record`, which also runs it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import nn

from normprobe.capture.batches.progress_bar import Progress
from normprobe.capture.batches.run_batches import in_modes, run_batches, single_values_explained
from normprobe.capture.coverage import RunCoverage, why_unseen
from normprobe.capture.forwards.label_options import LabelsOption, read_labels
from normprobe.capture.forwards.mask_options import MaskOption, check_mask_name, read_mask
from normprobe.capture.forwards.probe_options import by_name, check_options, shown
from normprobe.capture.forwards.run_info import describe
from normprobe.capture.hook_callbacks import HookCallbacks
from normprobe.capture.hooks.handles import Hooks
from normprobe.capture.hooks.interrupts import finish
from normprobe.capture.states.site_state import nbytes
from normprobe.capture.stored_nonfinite import any_nonfinite, stored_nonfinite
from normprobe.errors import NormprobeError, warn
from normprobe.layers.filters import LayerFilter, check_filters
from normprobe.layers.find import find_layers
from normprobe.layers.layer import LayerSet
from normprobe.layers.same_model import fingerprint
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

    @by_name("the model", 1)
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
        labels: LabelsOption = None,
        part: str | None = None,
        seed: int = 0,
    ) -> None:
        """Choose what to measure; nothing touches the model before the block is entered.

        Args:
            model: any module, also one that is itself a layer.
            layers: glob pattern(s) over qualified names, module class(es), or a predicate
                (name, module) -> bool.
            kinds: the kinds to probe: linear, layer_norm, rms_norm, batch_norm, group_norm,
                instance_norm, norm.
            mask: "auto" finds padding masks in the arguments of the model's forward; a callable
                (args, kwargs) -> bool tensor (batch, positions), True = real; the name of the argument that
                holds the mask, or lengths; such a tensor, where there is a single batch; a dict from layer
                glob to such tensors; None for no mask.
            samples: how many samples per layer and site are kept; "all" keeps every one.
            values: of how many of those the raw row is kept, at norms (at Linear layers 8 at most).
            every: measure forwards 0, every, 2 * every, ...; the others cost nothing.
            labels: the texts of samples, for people reading: a list of str, one an example in the order of
                the data over all batches; a list of lists of str, one a position of each example, padding
                included; or (args, kwargs) -> such a list of lists for the examples of one forward.
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
        self._filter = check_filters(layers, kinds)
        self._mask = mask
        self._hooks: Hooks | None = None
        self._known: tuple[list[Any], LayerSet] | None = None
        self._grad = True
        self._final: Recording | None = None
        self._callbacks = HookCallbacks(
            mask=read_mask(mask),
            labels=read_labels(labels),
            samples=None if samples == "all" else samples,
            values=values,
            every=every,
            seed=seed,
        )
        # Looked for here, so that a filter that fits nothing is an error before anything runs.
        found = self._found()
        self._callbacks.add_layers(found)
        check_mask_name(mask, model)

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
        found = self._found()
        self._grad = torch.is_grad_enabled()
        try:
            self._final, self._hooks = None, Hooks()
            self._callbacks.attach(self.model, found, self._hooks)
            return self
        except BaseException:
            self._detach()
            raise

    def _found(self) -> LayerSet:
        """The layers of the model, looked for anew if it is not as it was the last time."""
        known, seen = self._known, fingerprint(self.model)
        # A user's predicate may say something else each time.
        if known is None or callable(self._filter[0]) or known[0] != seen:
            known = self._known = seen, find_layers(self.model, *self._filter)
        self._unmatched = known[1].unmatched
        return known[1]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove every hook, whatever happened; warn if nothing was measured."""
        try:
            self._detach()
        finally:
            # Again, should an interrupt have come between two steps; what is done is not done twice.
            self._detach()
        # An error says itself why nothing was run.
        if kind is None and not self._callbacks.forwards.calls:
            compiled = "code that was compiled before calls no hook"
            warn(f"nothing was measured: the model was not called inside the block ({compiled})")

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

    def _copy_vectors(self) -> None:
        """Copy anew the scales, shifts and running statistics of the layers that were measured."""
        with self._callbacks.lock:
            for state in self._callbacks.states.values():
                if state.confirmed and state.firings and not state.refused:
                    state.snapshot_vectors(state.layer.module)

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
        facts = callbacks.run_info.facts(self.part, callbacks.weight_changes.count)
        return {
            **describe(self.model),
            "forwards": forwards.calls,
            "measured": forwards.measured,
            **facts,
            "warnings": [*map(valid_name, self._unmatched), *facts["warnings"]],
            "training": list(modes),
            "nbytes": nbytes(site for state in states for site in state.sites.values()),
            "parts": [self.part],
            "options": options,
        }


@by_name("the model and the batches", 2)
def record(
    model: nn.Module,
    batches: Any,
    *,
    mode: Literal["eval", "train"] = "eval",
    progress: Progress = None,
    **options: Any,
) -> Recording:
    """Run a model over batches in evaluation mode, without gradients, and measure it.

    >>> recording = normprobe.record(model, [torch.randn(8, 100)])
    >>> recording = normprobe.record(model, loader, layers="encoder.*", samples="all")
    >>> recording = normprobe.record(model, loader, mode="train")  # with the batches' own statistics

    Args:
        model: the model; its modes are as before afterwards.
        batches: an iterable of tensors, of tuples or lists (positional arguments) or of mappings (keyword
            arguments); a single tensor or mapping counts as one batch, and so does a tuple that can be
            nothing else, such as ids with their mask. A loader of inputs and labels is taken as it is: of a
            tuple the forward's arguments without a default take the leading items. An argument with a
            default takes an item only if it may be for such a one: `mask` for a mask, `labels` for labels, a
            flag for no tensor, any other for a tensor of two axes or more. A forward of ``*args`` takes all.
            Of a mapping the entries that the forward has an argument for are used. ``meta["warnings"]`` says
            what is left out; name what is meant all the same, as {"x": x, "context": context}.
        mode: "train" runs every module in training mode: a BatchNorm normalizes with the batch's own
            statistics, and dropout drops. Still without gradients, and buffers (running statistics) and
            random numbers are as before afterwards.
        progress: True shows a bar; or it is called with the number of batches done, after each.
        **options: as `Probe` takes them.

    Raises:
        NoLayersError: there is nothing to probe.
        NoSamplesError: there is no batch.
        NormprobeError: an option or a batch is not of the form above, or the forward does not take a batch.
    """
    if mode not in ("eval", "train"):
        raise NormprobeError(f"mode must be 'eval' or 'train', got {mode!r}")
    # Before any mode is set: of what is no model, or of no layer, Probe says what is wrong with it.
    probe, trains = Probe(model, **options), mode == "train"
    with in_modes(model, lambda _: trains, restore=trains), single_values_explained(), probe:
        left_out = run_batches(model, batches, progress)
    if trains:
        probe._copy_vectors()  # the running statistics that the model has again
    recording = probe.recording
    facts: dict[str, Any] = {"mode": mode} if trains else {}
    none = "" if recording.meta["examples"] else "the batches hold no example: nothing was measured"
    if said := [text for text in (left_out, none) if text]:
        facts["warnings"] = [*recording.meta["warnings"], *said]
    return recording.annotate(**facts) if facts else recording
