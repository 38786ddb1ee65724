"""What each hook of a probe does when it fires: the way of a tensor that the extension does not take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from normprobe.capture.distribution_measurer import measurer_of
from normprobe.capture.experts.attach import attach_experts
from normprobe.capture.experts.expert_capture import ExpertCapture
from normprobe.capture.fast_hooks import FastHooks
from normprobe.capture.forwards import current_forward
from normprobe.capture.forwards.forward import Forward, Forwards
from normprobe.capture.forwards.label_options import LabelsOf, ListedLabels
from normprobe.capture.forwards.mask_options import GivenMasks, Mask
from normprobe.capture.forwards.phases import Phases
from normprobe.capture.forwards.probe_options import NOTHING_FURTHER, Further, is_users_own, users_own
from normprobe.capture.forwards.run_info import RunInfo
from normprobe.capture.forwards.weight_changes import WeightChanges
from normprobe.capture.functions.function_mode import FunctionCapture
from normprobe.capture.gradients.followed_hook import layer_hooks
from normprobe.capture.gradients.gradient_capture import GradientCapture
from normprobe.capture.hooks.compiled import IN_GRAPH, UNCOMPILED, CompiledCode
from normprobe.capture.hooks.compiled_frames import between_graphs, run_as_written
from normprobe.capture.hooks.graph_calls import Shows, in_graph
from normprobe.capture.hooks.graphs import Graphs
from normprobe.capture.hooks.handles import Hook, Hooks, others_behind
from normprobe.capture.hooks.interrupts import NoGrad
from normprobe.capture.hooks.torch_internals import ModesAside, in_backward
from normprobe.capture.identity.sample_numbers import named_labels
from normprobe.capture.identity.sequences import SequenceFinder
from normprobe.capture.layer_calls import CHANGED, LayerCalls
from normprobe.capture.module_hooks import ModuleHooks
from normprobe.capture.states.layer_state import LayerState
from normprobe.capture.states.site_registry import TensorOf
from normprobe.capture.states.state_factory import StateFactory
from normprobe.capture.window_contents import WindowContents
from normprobe.layers.layer import Layer, LayerSet
from normprobe.samples.masks import Masks

LayerCall = tuple[nn.Module, tuple[Any, ...], dict[str, Any], Any]  # that ended, with its output


class HookCallbacks:
    """Follows the forwards of a model and measures what its layers read and write.

    A hook's way in is `_before` or `_after`; that of `FunctionCapture`, for layers whose modules are not
    called, is `before` or `after`. Whatever changes the state of a layer holds `lock`.

    Attributes:
        samples: how many are kept per layer and site, None for all; ``values``, of how many the raw row.
        seed: changes which samples are kept; ``further``, what is measured beside activations.
        states: the running state of each layer, by its key.
        forwards: the forwards so far.
        run_info: the data so far.
        windows: what was measured in the open window of each phase.
        weight_changes: whether parameters change between measured forwards.
        entered: ids of the modules that hold a layer and were called.
        gradients: what measures gradients, too; None where only activations are.
        experts: what measures experts that one weight holds; None where nobody asked for them.
        lock: guards the states, the run's data and the plans, for models called from several threads. It is
            reentrant: the extension's hooks hold it when they call `LayerCalls.snapshot_alone`.
    """

    def __init__(
        self,
        *,
        mask: Mask,
        labels: LabelsOf | ListedLabels | None,
        samples: int | None,
        values: int,
        phases: Phases,
        seed: int,
        further: Further = NOTHING_FURTHER,
    ) -> None:
        self.run_info, self.further = RunInfo(), further
        self.masks, self._labels, self._groups = GivenMasks(mask, self.run_info.note), labels, further.groups
        self.samples, self.values, self.seed = samples, values, seed
        self.states: dict[tuple[int, str], LayerState] = {}
        self.forwards = Forwards(phases, further.share)
        self.weight_changes = WeightChanges(self._forget_vectors)
        self.lock = current_forward.new_lock()
        self.model: nn.Module | None = None
        self.function_capture, self._hooks = FunctionCapture(self), Hooks()
        self._compiled = CompiledCode(self.forwards.measures)
        self._graphs = Graphs(IN_GRAPH, self.forwards.measured_now)
        self._parameter_candidates: tuple[Layer, ...] = ()
        self._batch_norms: tuple[LayerState, ...] = ()
        self.entered, self._several, self._no_grad = set[int](), False, NoGrad()
        self._sequences = SequenceFinder(self.masks)
        self._factory = StateFactory(samples, values, gradients=further.loss_scale is not None)
        of_layers = self.lock, self._no_grad, self._sequences.of, self.state_of
        self.experts = self.function_capture.experts = ExpertCapture(*of_layers) if further.experts else None
        self.windows = WindowContents(self.states, self.run_info, self.experts)
        make = measurer_of(further.distributions, grouped=further.groups is not None)
        measurer = self._measurer = make(seed, samples, self._sequences.holds_padding)
        given = self.lock, measurer, self._no_grad, self.windows.enter
        self.gradients = None if further.loss_scale is None else GradientCapture(further.loss_scale, *given)
        self._calls = LayerCalls(self.lock, measurer, self._no_grad, self._sequences.of, self.gradients)
        self._fast_hooks = FastHooks(self.forwards, self.lock, Hook(self._calls.snapshot_alone))
        of_calls = self.forwards, self._calls
        self._layer_hooks = layer_hooks(measurer.layer_hooks(self._fast_hooks.layer, *of_calls), *of_calls)

    def add_layers(self, found: LayerSet) -> list[LayerState]:
        """The running states of these layers; those of an earlier entry go on counting."""
        self._parameter_candidates = found.parameter_candidates
        self.function_capture.left_out = found.left_out
        return [self.state_of(layer) for layer in found.layers]

    def state_of(self, layer: Layer) -> LayerState:
        """The running state of a layer, fresh if it is new."""
        if layer.key not in self.states:
            self.states[layer.key] = self._factory.make(len(self.states), layer)
        return self.states[layer.key]

    def layers(self) -> list[Layer]:
        """All layers, and the parameters that may turn out to be one."""
        return [*(state.layer for state in self.states.values()), *self._parameter_candidates]

    def attach(self, model: nn.Module, found: LayerSet, hooks: Hooks) -> None:
        """Put every hook in place."""
        self.model, self._hooks, hooks.graphs = model, hooks, self._graphs
        states = self.add_layers(found)
        self.function_capture.follow_attention(states, self._calls.observe_own)
        rules = [state.sequence_rule for state in states]
        self._sequences.crosses_by_name = any(rule.cross or rule.torch_cross for rule in rules)
        # Before a call has told what they compute, norms of no particular kind may be batch norms.
        self._batch_norms = tuple(s for s in states if s.layer.view.kind in ("batch_norm", "norm"))
        self.weight_changes.enter()
        self.forwards.share.enter(model)
        if self.gradients is not None:
            self.gradients.enter(self.states, self.run_info.note)
        self._compiled.enter(model, self._note_uncompiled)
        self._hook_layers(model, found, states)
        attach_experts(self.experts, found, hooks, self._own, self.forwards)
        given = self.forwards, self.lock, self._no_grad, self.run_info, self._sequences
        ModuleHooks(*given).attach(model, hooks, self._own, states)
        hooks.keep_last()

    def _hook_layers(self, model: nn.Module, found: LayerSet, states: list[LayerState]) -> None:
        """Put the hooks of layers, and of modules that hold some, in place."""
        hooked = {
            id(state.layer.module): state
            for state in states
            if not state.refused and not state.layer.parameter
        }
        # Of a module that is a layer, too, the layer's hooks lie within the container's.
        both, outer = (
            (self._own(self._enter_container), self._own(self._leave_container)),
            {model, *model.children(), *self._compiled.parts},
        )
        layered = []
        for module in found.containers:
            # Of a part that is compiled by itself each call is looked at; the extension leaves most out.
            fast = module not in self._compiled.parts
            before, after = self._fast_hooks.container(module, model, *both) if fast else both
            # Behind the layer's own hook, which is put in place below.
            if id(module) in hooked:
                self._hooks.before(module, before, last=True)
                layered.append((module, after))
            else:
                self._hooks.around(module, before, after, inner=module not in outer)
        for state in states:
            state.buffers.enter()
            if id(state.layer.module) in hooked and not state.layer.parameter:
                before, after = self._hooks_of(state)
                # Last of all: what a layer reads and what its caller receives is as hooks of others leave it.
                # Calls that may still show how the layer computes, or by what it changes, are shown whole.
                plain = state.settled and not state.by_callback
                shown: Shows = "output" if plain else "all"
                layer = state.layer.module
                self._hooks.before(layer, before, last=True, layer=state)
                self._hooks.after(layer, after, always=True, last=True, shows=shown, layer=state)
        for module, after in layered:
            self._hooks.after(module, after, always=True, last=True)

    def _hooks_of(self, state: LayerState) -> tuple[Callable[..., None], Callable[..., None]]:
        """What to call ahead of a layer and behind it."""
        before, after = self._own(partial(self._before, state)), self._own(partial(self._after, state))
        return (before, after) if state.by_callback else self._layer_hooks(state, before, after)

    def _own(self, call: Callable[..., None]) -> Callable[..., None]:
        """A callback that lets no error of the probe's own into the user's forward."""
        return partial(self._call_own, call)

    def _call_own(self, call: Callable[..., None], *args: Any) -> None:
        try:
            call(*args)
        except Exception as error:
            if is_users_own(error):
                raise
            self.run_info.note("a call of a module was not measured", error)

    def leaving(self, grad: bool) -> tuple[Callable[[], None], ...]:
        """The steps that end a block: forget forwards that were cut short, and add up how buffers moved.

        Args:
            grad: whether gradients were on as the block began.
        """
        return (
            self.function_capture.close,
            *([] if self.gradients is None else [self.gradients.leave]),
            self.weight_changes.leave,
            self._compiled.leave,
            self.forwards.clear,
            partial(self._no_grad.restore, grad),
            self._leave_buffers,
        )

    def _forget_vectors(self) -> None:
        """Copy the scale of each norm anew, though its version is as it was when it was copied."""
        with self.lock:
            for state in self.states.values():
                state.forget_vectors()

    def _note_uncompiled(self, module: nn.Module) -> None:
        """Say of the layers in a module that it ran as written."""
        inside = {id(part) for part in module.modules()}
        for state in self.states.values():
            if id(state.layer.module) in inside:
                state.reasons[UNCOMPILED] = 1

    def _leave_buffers(self) -> None:
        for state in self.states.values():
            state.buffers.leave()

    def _enter_container(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if in_backward():  # checkpointing calls the forward again: the same data a second time
            return
        self.entered.add(id(module))
        forward = self.forwards.ongoing(module, self.model) or self._begin(module, args, kwargs)
        if forward.state.session is not None:
            self.function_capture.enter(forward.state.session, module, args, kwargs)
        if self._compiled.is_stale(module, args, kwargs, measured=forward.state.measured):
            run_as_written(module)

    def _leave_container(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not in_backward():
            self._compiled.note_own(module)
            self.function_capture.leave(self.forwards.current, module, output)
            self.forwards.end(module)
            if module is self.model:
                self._hooks.put_back()

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forward:
        """The forward that begins with this call of a module."""
        compiled = in_graph() or between_graphs()
        self._hooks.put_back()  # if a KeyboardInterrupt left them aside
        if not compiled and self._hooks.keep_last():
            self._look_behind()
        if why := self.forwards.why_left_out((*args, *kwargs.values())):
            return self.forwards.begin_skipped(module, why)
        forward = self.forwards.begin(module, args, kwargs, self.masks)
        if forward.state.measured:
            if forward.phase is not None:
                with self.lock:
                    self.windows.enter(forward.phase.name)
            self._note_modes(module)
            # Then plans hold whatever fired before: which sequence a layer works on is never asked again.
            forward.single_sequence = not forward.masks.two_sided and not self.masks.by_layer
            if self._labels is not None or self._groups is not None:
                self._name(forward, args, kwargs)
            if self.gradients is not None:
                self.gradients.begin(forward)
            with self.lock, ModesAside(), self._no_grad:
                self._measurer.begin(forward)
                self.run_info.add(forward)
                self.weight_changes.look(self.model or module)
                self._note_masks(forward.masks)
            forward.state.session = self.function_capture.open(module, forward, kwargs)
        if module is self.model and forward.state.session is None and not compiled:
            self._hooks.put_aside(self.entered)  # which have nothing to do inside a call of the model
        return forward

    def _name(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Give a forward the labels and groups of the user; if that raises, it never began."""
        try:
            with users_own():
                forward.labels = named_labels(self._labels, forward, args, kwargs)
            if self._groups is not None:
                forward.groups = self._groups.rule.of(self.forwards.grouped_call(forward, args, kwargs))
        except BaseException:
            self.forwards.withdraw(forward)
            raise

    def _look_behind(self) -> None:
        """Look again whether hooks of others change what layers give: some were registered since."""
        with self.lock:
            for state in self.states.values():
                if state.watched and others_behind(state.layer.module) and CHANGED not in state.reasons:
                    state.watched = False
                    state.update_decided()

    def _note_masks(self, masks: Masks) -> None:
        """Note the masks that are not used, and ask anew what layers work on once several have masks."""
        for name in masks.unused:
            self.run_info.note_unused_mask(name)
        # Plans so far were made for one sequence: each layer is to say first which one it works on.
        if masks.several and not self._several:
            self._several = True
            for state in self.states.values():
                for site in state.sites.values():
                    site.counters.decided = False

    def _note_modes(self, module: nn.Module) -> None:
        """Count the batch norms that are in train mode in a forward of a model in evaluation mode."""
        if self._batch_norms and not module.training:
            with self.lock:
                for state in self._batch_norms:
                    state.train_in_eval += state.layer.module.training

    def _before(
        self, state: LayerState, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if in_backward():
            # The same data a second time; but where it had no graph the first time, gradients come now.
            if self.gradients is not None:
                self.gradients.again(state, args, kwargs)
            return
        # As a container it has begun the forward, if it is the outermost.
        ongoing = self.forwards.current if state.holds_layers else self.forwards.ongoing(module, self.model)
        forward = ongoing or self._begin(module, args, kwargs)
        if forward.state.measured and not state.refused:
            self._calls.begin(state, forward, args, kwargs)
            if not (state.settled and state.watched):
                state.watched = True
                # Another hook would have a graph made anew.
                if others_behind(module) and not in_graph():
                    self._hooks.once(module, partial(self._own_result, state))

    def _own_result(self, state: LayerState, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        forward = self.forwards.current
        if not in_backward() and forward is not None:
            self._calls.note_own(state, forward, output)

    def _after(self, state: LayerState, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        forward = self.forwards.current
        if in_backward():
            if self.gradients is not None:
                self.gradients.again(state, args, kwargs, output)
        elif forward is not None:
            self._calls.end(state, forward, (args, kwargs, output))
            if state.further_sites and output is not None and forward.state.measured:
                self._observe_further(state, forward, (module, args, kwargs, output))
            if not state.holds_layers:
                self.forwards.end(module)

    def before(self, state: LayerState, forward: Forward, tensor: Tensor | None) -> None:
        """Measure what a layer reads, ahead of a function that uses it, in a forward that is measured."""
        self._calls.begin_with(state, forward, tensor)

    def after(
        self, state: LayerState, forward: Forward, output: Tensor | None, given: tuple[Any, ...]
    ) -> None:
        """Measure what a function that uses a layer gave for these arguments; no output if it raised."""
        self._calls.end(state, forward, (given, {}, output))

    def _observe_further(self, state: LayerState, forward: Forward, call: LayerCall) -> None:
        """Measure the registered sites of a layer after a call of its module."""
        for name, tensor_of in state.further_sites.items() if not state.refused else ():
            measure = partial(self._observe_registered, state, name, tensor_of, forward, call)
            self._calls.guard(state, f"a call at its {name}", measure)

    def _observe_registered(
        self, state: LayerState, name: str, tensor_of: TensorOf, forward: Forward, call: LayerCall
    ) -> None:
        # A user's function: without the lock, which it might wait for, and with the user's own modes.
        with self.function_capture.aside():
            tensor = tensor_of(*call)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"its function gave {type(tensor).__name__}, no tensor")
        if tensor is not None:
            self._calls.observe(state, name, tensor, forward)
