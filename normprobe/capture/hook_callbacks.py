"""What each hook of a probe does when it fires."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normprobe.capture import current_forward
from normprobe.capture.coverage import SLOWED, would_fuse
from normprobe.capture.fast_hooks import Ears
from normprobe.capture.forward import Forward, Forwards, Sequence
from normprobe.capture.function_mode import Functional
from normprobe.capture.hooks.compiled import UNCOMPILED, Uncompiled
from normprobe.capture.hooks.handles import Hooks
from normprobe.capture.hooks.torch_internals import in_backward, why_not_run
from normprobe.capture.layer_state import Watch
from normprobe.capture.measure import Measurer
from normprobe.capture.probe_options import GivenMasks, LabelsOf, MaskOption
from normprobe.capture.run_info import Tally
from normprobe.capture.sample_numbers import named_labels
from normprobe.layers.layer import Found, Layer
from normprobe.samples.batch import decoders, first_tensor, takes_time_first
from normprobe.samples.reservoir import Rosters


class Listener:
    """Follows the forwards of a model and measures what its layers read and write.

    Attributes:
        samples: how many samples are kept per layer and site; None for all.
        values: of how many of those the raw row is kept.
        seed: changes which samples are kept.
        watches: the running state of each layer, by its key.
        forwards: the forwards so far.
        tally: the data so far.
        entered: ids of the modules that hold a layer and were called.
        lock: guards all of it, for models called from several threads.
    """

    def __init__(
        self,
        *,
        mask: MaskOption,
        labels: LabelsOf | None,
        samples: int | None,
        values: int,
        every: int,
        seed: int,
    ) -> None:
        self._masks, self._labels = GivenMasks(mask), labels
        self.samples, self.values, self.seed = samples, values, seed
        self.watches: dict[tuple[int, str], Watch] = {}
        self.forwards, self.tally = Forwards(every), Tally()
        self.entered: set[int] = set()
        self.lock = current_forward.lock()
        self.model: nn.Module | None = None
        self.functional, self._uncompiled = Functional(self), Uncompiled()
        self._ears = Ears(self.forwards, self.lock, self._snapshot)
        self._hooks = Hooks()
        self._strays: tuple[Layer, ...] = ()
        self._depth = 0
        self._measurer, self._rosters = Measurer(seed, samples), Rosters(samples)

    def watch(self, found: Found) -> list[Watch]:
        """The running states of these layers; layers met before go on counting."""
        self._strays, self.functional.left_out = found.strays, found.left_out
        return [self.watch_of(layer) for layer in found.layers]

    def watch_of(self, layer: Layer) -> Watch:
        """The running state of a layer, fresh if it is new."""
        if layer.key not in self.watches:
            rows = min(8, self.values) if layer.view.kind == "linear" else self.values
            rosters = self._rosters.of(self.samples), self._rosters.of(rows)
            self.watches[layer.key] = Watch.of(len(self.watches), layer, *rosters)
        return self.watches[layer.key]

    def layers(self) -> list[Layer]:
        """All layers, and the parameters that may turn out to be one."""
        return [*(watch.layer for watch in self.watches.values()), *self._strays]

    def attach(self, model: nn.Module, found: Found, hooks: Hooks) -> None:
        """Put every hook in place."""
        self.model, self._hooks = model, hooks
        watches = self.watch(found)
        as_written = self._uncompiled.enter(model)
        for watch in watches:
            if id(watch.layer.module) in as_written:
                watch.reasons[UNCOMPILED] = 1
        ways, outer = (self._enter_container, self._leave_container), {model, *model.children()}
        for module in found.containers:
            hooks.around(module, *self._ears.container(module, model, *ways), inner=module not in outer)
        for watch in watches:
            watch.running.enter()
            if not watch.refused and not watch.layer.parameter:
                before, after = partial(self._before, watch), partial(self._after, watch)
                hooks.around(watch.layer.module, *self._ears.layer(watch, before, after))
        for module in model.modules():
            if takes_time_first(module):
                hooks.before(module, self._claim_time_first)
            if isinstance(module, nn.TransformerEncoderLayer):
                hooks.before(module, self._enter_fused)
        for module in decoders(model):
            hooks.before(module, self._enter_decoder)

    def leave(self) -> None:
        """Forget forwards that were cut short, and add up what moved."""
        self.functional.close()
        self._uncompiled.leave()
        self.forwards.clear()
        for watch in self.watches.values():
            watch.running.leave()

    def _enter_container(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if in_backward():
            return
        self.entered.add(id(module))
        forward = self.forwards.ongoing(module, self.model) or self._begin(module, args, kwargs)
        if forward.now.session is not None:
            self.functional.enter(forward.now.session, module, args, kwargs)

    def _leave_container(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not in_backward():
            self.functional.leave(self.forwards.current, module, output)
            self.forwards.end(module)
            if module is self.model:
                self._hooks.put_back()

    def _enter_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (forward := self.forwards.current) is not None:
            forward.decoder_fired = True

    def _enter_fused(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if would_fuse(module):
            inside = {id(child) for child in module.modules()}
            for (layer, _), watch in self.watches.items():
                if layer in inside:
                    watch.reasons[SLOWED] = 1

    def _claim_time_first(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        forward = self.forwards.current
        lead = None if forward is None else forward.batch.lead
        if forward is None or lead is None or all(value is not lead for value in (*args, *kwargs.values())):
            return
        with self.lock, torch.no_grad():
            before = replace(forward)
            if self.forwards.swap(forward) and forward.now.measured:
                self.tally.withdraw(before)
                self.tally.add(forward)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forward:
        self._hooks.put_back()  # if a KeyboardInterrupt left them aside
        if why := why_not_run((*args, *kwargs.values())):
            return self.forwards.begin_unrun(module, why)
        forward = self.forwards.begin(module, args, kwargs, self._masks)
        if forward.now.measured:
            forward.plain = not forward.masks.two_sided and not self._masks.by_layer
            forward.labels = named_labels(self._labels, forward, args, kwargs)
            with self.lock, torch.no_grad():
                self._measurer.begin(forward)
                self.tally.add(forward)
            forward.now.session = self.functional.open(module, forward, kwargs)
        if module is self.model and forward.now.session is None:
            self._hooks.put_aside(self.entered)  # which have nothing to do inside a call of the model
        return forward

    def _sequence(self, watch: Watch, forward: Forward) -> Sequence:
        """What the layer works on in this forward."""
        reads = watch.reader.reads(two_sided=forward.masks.two_sided, decoder_fired=forward.decoder_fired)
        pattern = self._masks.pattern_of(watch.layer.name)
        sequence = forward.sequences.get((reads, pattern))
        if sequence is None:
            padding = self._masks.padding(pattern, forward.masks.of(reads))
            sequence = forward.sequences[reads, pattern] = forward.sequence(reads, padding)
        return sequence

    def _before(self, watch: Watch, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if in_backward():
            return
        forward = self.forwards.ongoing(module, self.model) or self._begin(module, args, kwargs)
        if forward.now.measured and not watch.refused:
            tensor = first_tensor(args)
            self.before(watch, forward, first_tensor(kwargs.values()) if tensor is None else tensor)

    def before(self, watch: Watch, forward: Forward, tensor: Tensor | None) -> None:
        """Ahead of a call of a layer in a forward that is measured, with what it reads."""
        with self.lock:
            forward.now.enter(watch.index)
            if watch.depth is None:
                watch.depth, self._depth = self._depth, self._depth + 1
            if forward.masks.two_sided and watch.reader.side == "decoder":
                forward.decoder_fired = True
            if tensor is None:
                watch.note("a call without a tensor among its arguments is left out")
            elif watch.settled:
                self._take(watch, "input", tensor, forward)
            else:
                # The output decides how the input reads, and the layer may overwrite its input.
                forward.stash[watch.index] = tensor.detach().clone()

    def _after(self, watch: Watch, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        forward = self.forwards.current
        if not in_backward() and forward is not None:
            self.after(watch, forward, first_tensor([output]), (*args, *kwargs.values()))
            self.forwards.end(module)

    def after(self, watch: Watch, forward: Forward, output: Tensor | None, given: tuple[Any, ...]) -> None:
        """Behind a call of a layer with these arguments; no output if it raised, or gave no tensor."""
        forward.now.leave(watch.index)
        if output is None:
            forward.stash.pop(watch.index, None)
        else:
            with self.lock:
                watch.firings += 1
                if forward.now.measured and not watch.refused:
                    self._finish(watch, forward, output, given)

    def _finish(self, watch: Watch, forward: Forward, output: Tensor, given: tuple[Any, ...]) -> None:
        """After the call: let a first call correct the view, then measure what is left to measure."""
        module, stashed = watch.layer.module, forward.stash.pop(watch.index, None)
        if stashed is not None:
            if not watch.settled:  # another thread may have been first
                settle = partial(watch.settle, module, stashed, output.detach(), given)
                self._guard(watch, "its first call", settle)
            if not watch.refused:
                self._take(watch, "input", stashed, forward)
        if not watch.refused:
            self._take(watch, "output", output, forward)
            watch.meet(module.training)
            self._snapshot(watch, module)
            watch.decide()

    def _snapshot(self, watch: Watch, module: nn.Module) -> None:
        if not watch.unchanged(module):
            self._guard(watch, "its scale", partial(watch.snapshot_vectors, module))

    def _take(self, watch: Watch, site: str, tensor: Tensor, forward: Forward) -> None:
        sequence = self._sequence(watch, forward)
        measure = partial(self._measurer.take, watch, site, tensor, forward, sequence)
        self._guard(watch, f"a call at its {site}", measure)

    def _guard(self, watch: Watch, what: str, call: Callable[[], None]) -> None:
        """Look, and if that fails say so in the ledger: never let the user's forward fail on it."""
        with torch.no_grad():
            try:
                call()
            except Exception as error:
                said = str(error).splitlines()[0] if str(error) else "no message"
                watch.note(f"{what} is left out: {type(error).__name__}: {said}")
