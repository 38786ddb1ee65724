"""The face of measuring: `Probe`, a block that measures a model, and `record`, which also runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import nn

from normprobe.capture.batches.progress_bar import Progress
from normprobe.capture.batches.run_batches import BatchShare, in_modes, run_batches, single_values_explained
from normprobe.capture.forwards.group_options import GroupsOption, read_groups
from normprobe.capture.forwards.label_options import LabelsOption, read_labels
from normprobe.capture.forwards.mask_options import MaskOption, check_mask_name, read_mask
from normprobe.capture.forwards.phases import Phases
from normprobe.capture.forwards.probe_options import (
    Further,
    by_name,
    check_distributions,
    check_options,
    check_step,
    check_window_options,
    checked_model,
    kept_at_most,
    options_of_shard,
    read_part,
)
from normprobe.capture.gradients.loss_scale import loss_scale
from normprobe.capture.hook_callbacks import HookCallbacks
from normprobe.capture.hooks.handles import Hooks
from normprobe.capture.hooks.interrupts import finish
from normprobe.capture.shown_options import shown_options
from normprobe.errors import NormprobeError, warn
from normprobe.layers.filters import LayerFilter
from normprobe.layers.find import find_layers
from normprobe.layers.further_layers import Residual, checked
from normprobe.layers.layer import LayerSet
from normprobe.layers.same_model import fingerprint
from normprobe.recording import Recording
from normprobe.tables.records import valid_name
from normprobe.windows.folder import WindowFolder
from normprobe.windows.open_run import OpenRun, finding_monitor
from normprobe.windows.run import ClosedWindows


class Probe:
    """Measures every Linear and normalization layer of a model while the block runs.

    >>> with normprobe.Probe(model) as probe:
    ...     for batch in batches:
    ...         model(**batch)
    >>> probe.recording.layers

    Hooks are attached on entry and none is left after exit. Outputs, gradients, modes and random numbers
    are those of the bare model.
    """

    _hooks: Hooks | None = None
    _final: Recording | None = None
    _known: tuple[list[Any], LayerSet] | None = None

    @by_name("the model", 1)
    def __init__(
        self,
        model: nn.Module,
        *,
        layers: LayerFilter | None = None,
        kinds: str | Iterable[str] | None = None,
        residual: Residual = None,
        mask: MaskOption = "auto",
        samples: int | Literal["all"] = 1024,
        values: int = 64,
        every: int = 1,
        window: int | None = None,
        out: str | Path | None = None,
        max_windows: int | None = None,
        resume_from: int | None = None,
        groups: GroupsOption = None,
        labels: LabelsOption = None,
        part: str | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        seed: int = 0,
        gradients: bool = False,
        scaler: Any = None,
        experts: bool = False,
        kurtosis: bool = False,
        quantiles: bool = False,
        on_finding: Callable[[Mapping[str, Any]], object] | None = None,
        stop_on: Literal["error", "warning"] | None = None,
    ) -> None:
        """Choose what to measure; nothing touches the model before the block is entered.

        Args:
            model: any module, also one that is itself a layer.
            layers: glob pattern(s) over names, module class(es), or a predicate (name, module) -> bool.
            kinds: the kinds to probe: linear, layer_norm, rms_norm, batch_norm, group_norm,
                instance_norm, norm; these by default, which "default" stands for beside conv, activation,
                embedding, attention and residual, that are probed on request.
            residual: True also measures the residual stream, at the input and output of the blocks that the
                model repeats, and what each block adds; glob pattern(s) over qualified names say which
                modules are the blocks. ``layers`` and ``kinds`` leave out none of them.
            mask: "auto" finds padding masks in the arguments of the model's forward; a callable
                (args, kwargs) -> bool tensor (batch, positions), True = real; the name of the argument that
                holds the mask, or lengths; such a tensor, where there is a single batch; a dict from layer
                glob to such tensors; None for no mask.
            samples: how many samples per layer and site are kept; "all" keeps every one.
            values: of how many of those the raw row is kept, at norms (at Linear layers 8 at most).
            every: measure steps 0, every, 2 * every, ... where `step` ends steps, else forwards, those of
                each phase counted by themselves; the others cost nothing.
            window: close a window of the recording after so many steps, or forwards of a phase where no step
                is told of; by default the whole run is one window a phase.
            out: a folder for the windows, each written as it closes, so that a run that is killed loses the
                open ones alone; SIGTERM closes these, too. Closed windows take no memory then.
            max_windows: keep at most so many: the two of a phase that span the fewest steps become one.
            resume_from: the last step of the checkpoint that the run goes on from. Windows in ``out`` that
                reach past it are removed, so that no step counts twice, and the numbers run on.
            groups: tells samples apart, so that `layers` and `features` have rows for each group: "special",
                "first", "modality", "generated", or (args, kwargs) -> labels (batch,) or (batch, positions).
            labels: the texts of samples, for people reading: a list of str, one an example in the order of
                the data over all batches; a list of lists of str, one a position of each example, padding
                included; or (args, kwargs) -> such a list of lists for the examples of one forward.
            part: names this probe's share of the data, as of a process or a file, so that nothing is merged
                twice. Probes of other parts keep other samples, so that their merge has some of each; without
                a name two probes of the same data keep the same, and can be compared pair by pair.
            rank: which of the processes that have other data this is: examples are numbered rank,
                rank + world_size, ..., as DistributedSampler deals them, and a merge keeps the samples that
                one probe of all the data would have kept. By default as torch.distributed says, where
                processes that hold parts of one model have the same data.
            world_size: how many such processes there are.
            seed: changes which samples are kept.
            gradients: also measure those of what layers read and write, as further sites.
            scaler: the `torch.amp.GradScaler` of the loss, whose scale is divided out of gradients.
            experts: also measure each expert where one weight holds all of a layer's, as in Mixtral, for
                `Recording.experts`. Experts that are modules of a list are there without it.
            kurtosis: also measure the kurtosis of each layer, feature and kept sample, in a second pass over
                each tensor; the tables have a column of it then.
            quantiles: also count all numbers of each layer and site in bins, eight an octave, for
                `Recording.quantiles`, `Recording.histogram` and what `Recording.fit` says of small values.
            on_finding: called with each finding once, as the window closes that shows it, or at the end of
                the block: a mapping of the columns of `Recording.findings` and the window's ``phase``,
                ``first_step`` and ``last_step``. What it raises goes through. Give ``window``, too.
            stop_on: raise `FindingError` where a finding is that bad, once its window is closed: "error", or
                "warning" for both.

        Raises:
            NoLayersError: the model has no Linear or norm, or a filter matches none.
            NormprobeError: an option is out of range.
        """
        self.model, self._mask, self._seed = checked_model(model), mask, seed
        apart = check_distributions(kurtosis, quantiles, groups), read_groups(groups, model)
        check_options(samples, values, every, window, mask)
        self._filter, self._monitor = checked(layers, kinds, residual), finding_monitor(on_finding, stop_on)
        self.part, self._known_part, drawn, share = read_part(part, out, seed, rank, world_size)
        asked: dict[str, Any] = {"mask": read_mask(mask), "labels": read_labels(labels), "seed": drawn}
        asked["further"] = Further(loss_scale(gradients, scaler), experts, *apart, share)
        asked |= kept_at_most(samples, values)
        self._callbacks = HookCallbacks(phases=Phases(every, window), **asked)
        self._run = self._open_run(out, max_windows, resume_from)

    def _open_run(self, out: str | Path | None, most: int | None, step: int | None) -> OpenRun:
        """Find the layers; the windows of the run, with those that another process closed."""
        self._find_layers(self._mask)
        check_window_options(most, step)
        closed = ClosedWindows(None if out is None else WindowFolder(out), most)
        part = self._known_part
        if step is None:
            closed.check_new(part)
        elif out is None:
            raise NormprobeError("resume_from goes on with the windows of a run: say where they are, by out=")
        else:
            self._resume(closed, part, step)
        return OpenRun(self.model, self._callbacks, self.part, closed, self._options(), monitor=self._monitor)

    def _resume(self, closed: ClosedWindows, part: str | None, step: int) -> None:
        """Take over the windows up to a step, and number on from there."""
        numbers = closed.resume(part, step)
        self._callbacks.forwards.phases.resume(step, {} if numbers is None else numbers.windows)
        if numbers is not None:
            self.part = numbers.part
            self._callbacks.forwards.resume(numbers.calls, numbers.examples)
            closed.check_alike(self._options()["options"], type(self.model).__name__)

    def _find_layers(self, mask: MaskOption) -> None:
        """Find what is to be measured: a filter that fits nothing is an error before anything runs."""
        found = self._found()
        self._callbacks.add_layers(found)
        check_mask_name(mask, self.model)

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
        self._run.options = self._options()
        self._grad = torch.is_grad_enabled()
        try:
            self._final, self._hooks = None, Hooks()
            self._callbacks.attach(self.model, found, self._hooks)
            self._run.enter()
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
        if kind is None:
            self._run.look(at_end=True)

    @property
    def recording(self) -> Recording:
        """A frozen snapshot of what was measured so far; also inside the block."""
        if self._final is not None:
            return self._final
        series = self._run.series()
        recording = Recording(self._run.nothing()) if series is None else Recording.of_windows(series)
        # Those of a phase of which no forward was measured since are of no window.
        if recording.meta["forwards"] != self._callbacks.forwards.runs:
            recording = recording.annotate(forwards=self._callbacks.forwards.runs)
        # While the block lasts more may be measured.
        if self._hooks is None:
            self._final = recording
        return recording

    def step(self, step: int | None = None) -> None:
        """End an optimizer step, as ``scheduler.step()`` and ``profiler.step()`` do theirs.

        >>> for step, batch in enumerate(loader):
        ...     train_on(batch)
        ...     probe.step(step)

        From the first call on ``every`` and ``window`` count steps and not forwards of training: all forwards
        of a step are measured (with gradients accumulated, each of its batches), or none.

        Args:
            step: its number, such as ``trainer.global_step``; by default one more than the last, from 0.

        Raises:
            NormprobeError: the number is no whole number, is negative, or lower than one before.
            FindingError: a window that closed has a finding, as ``stop_on`` asks for.
        """
        check_step(step, self._callbacks.forwards.phases.last)
        if self._callbacks.gradients is not None:
            self._callbacks.gradients.end_step()
        self._run.end_step(step)

    def close_windows(self) -> None:
        """Close the open windows now, as where a checkpoint is saved: a run that resumes from it loses none.

        >>> torch.save(state, "checkpoint.pt")
        >>> probe.close_windows()
        """
        self._run.close_windows()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A block whose forwards are a phase of their own, with windows of their own.

        >>> with probe.phase("validation"):
        ...     validate(model)

        Outside of such blocks the phase of a forward is "train" or "eval", by the mode of what is called.

        Args:
            name: such as "validation", "sanity check" or "warm-up".

        Raises:
            NormprobeError: the name is no text, or is empty.
        """
        if not isinstance(name, str) or not name:
            raise NormprobeError(f"phase needs a name such as 'validation', got {name!r}")
        with self._callbacks.forwards.phases.named(valid_name(name)):
            yield

    def _copy_vectors(self) -> None:
        """Copy anew the scales, shifts and running statistics of the layers that were measured."""
        with self._callbacks.lock:
            for state in self._callbacks.states.values():
                if state.confirmed and state.firings and not state.refused:
                    state.snapshot_vectors(state.layer.module)

    def _detach(self) -> None:
        if self._hooks is not None:
            steps = self._hooks.remove, *self._callbacks.leaving(self._grad), self._run.leave
            finish(*steps, self._forget_hooks)

    def _forget_hooks(self) -> None:
        self._hooks = None

    def _options(self) -> dict[str, Any]:
        """What the recording says of the probe's options, as JSON holds it."""
        given = self._filter, self._mask, self._seed
        return {
            "warnings": [*map(valid_name, self._unmatched)],
            "options": shown_options(self._callbacks, *given),
        }


@by_name("the model and the batches", 2)
def record(
    model: nn.Module,
    batches: Any,
    *,
    mode: Literal["eval", "train"] = "eval",
    progress: Progress = None,
    shard: tuple[int, int] | None = None,
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
        shard: (index, number of shards) runs only each so-many-th of the batches, from the index-th on, and
            numbers examples and forwards as over all of them: the recordings of all shards merge into that
            of one process, with the same samples.
        **options: as `Probe` takes them.

    Raises:
        NoLayersError: there is nothing to probe.
        NoSamplesError: there is no batch.
        NormprobeError: an option or a batch is not of the form above, or the forward does not take a batch.
    """
    if mode not in ("eval", "train"):
        raise NormprobeError(f"mode must be 'eval' or 'train', got {mode!r}")
    if options.get("gradients"):
        raise NormprobeError(
            "record runs without gradients; put a Probe(gradients=True) around steps of training"
        )
    # Before any mode is set: of what is no model, or of no layer, Probe says what is wrong with it.
    probe, trains = Probe(model, **options_of_shard(shard, options)), mode == "train"
    callbacks = probe._callbacks
    elsewhere = partial(callbacks.forwards.pass_over, model, callbacks.masks)
    share = None if shard is None else BatchShare(*shard, elsewhere)
    with in_modes(model, lambda _: trains, restore=trains), single_values_explained(), probe:
        left_out = run_batches(model, batches, progress, share)
    if trains:
        probe._copy_vectors()  # the running statistics that the model has again
    recording = probe.recording
    facts: dict[str, Any] = {"mode": mode} if trains else {}
    none = (
        ""
        if recording.meta["examples"] or share is not None
        else "the batches hold no example: nothing was measured"
    )
    if said := [text for text in (left_out, none) if text]:
        facts["warnings"] = [*recording.meta["warnings"], *said]
    return recording.annotate(**facts) if facts else recording
