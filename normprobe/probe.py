"""The one place where layers, hooks, views, masks and kernels meet."""

from __future__ import annotations

import fnmatch
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from normprobe.context import describe
from normprobe.digests import digest
from normprobe.errors import NormprobeError
from normprobe.forwards import Forward, Forwards, in_backward, takes_time_first
from normprobe.hooks import Hooks
from normprobe.layers import Found, LayerFilter, find_layers
from normprobe.masks import Masks, Padding, find_masks, side_of, to_real
from normprobe.measuring import first_tensor, take
from normprobe.placing import named_labels
from normprobe.recording import Recording
from normprobe.tables import build_tables
from normprobe.unseen import why_unseen
from normprobe.watch import Watch

MaskOf = Callable[[tuple[Any, ...], dict[str, Any]], Tensor]
MaskOption = Literal["auto"] | MaskOf | Mapping[str, Tensor] | None
LabelsOf = Callable[[tuple[Any, ...], dict[str, Any]], list[list[str]]]


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
        _check_options(samples, values, every, mask)
        self.model = model
        self.part = part if part is not None else str(uuid.uuid4())
        self._filter = (layers, list(kinds) if kinds is not None and not isinstance(kinds, str) else kinds)
        self._mask, self._labels, self._seed = mask, labels, seed
        self._samples: int | None = None if samples == "all" else samples
        self._values = values
        self._found = find_layers(model, *self._filter)
        self._watches: dict[int, Watch] = {}
        self._forwards = Forwards(every)
        self._hooks: Hooks | None = None
        self._lock = threading.RLock()
        self._entered: set[int] = set()
        self._depth = 0
        self._digest = torch.zeros((), dtype=torch.int64)
        self._counts = {"rows": 0, "padding": 0, "examples": 0}
        self._units: dict[str, str] = {}
        self._final: Recording | None = None

    def __enter__(self) -> Self:
        """Attach the hooks.

        Raises:
            NormprobeError: the probe is already active.
        """
        if self._hooks is not None:
            raise NormprobeError("this probe is already active; leave its block first, or make a second Probe")
        self._final = None
        self._found = find_layers(self.model, *self._filter)
        self._hooks = Hooks()
        try:
            self._attach(self._found, self._hooks)
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove every hook, whatever happened."""
        self._detach()

    @property
    def recording(self) -> Recording:
        """A frozen snapshot of what was measured so far; also inside the block."""
        if self._final is not None:
            return self._final
        with self._lock:
            watches = self._watches or {
                id(layer.module): Watch.of(index, layer, self._samples, self._values)
                for index, layer in enumerate(self._found.layers)
            }
            parents = {id(c): m for m in self.model.modules() for c in m.children()}
            records = [
                watch.record(why_unseen(self.model, watch.layer, parents, self._entered, self._forwards.measured))
                for watch in watches.values()
            ]
            recording = Recording(build_tables(records, self._meta(), self.part))
        if self._hooks is None:
            self._final = recording
        return recording

    def _attach(self, found: Found, hooks: Hooks) -> None:
        for module in found.containers:
            hooks.before(module, self._enter_container)
            hooks.after(module, self._leave_container, always=True)
        for layer in found.layers:
            fresh = Watch.of(len(self._watches), layer, self._samples, self._values)
            watch = self._watches.setdefault(id(layer.module), fresh)
            if not watch.refused:
                hooks.before(layer.module, partial(self._before, watch))
                hooks.after(layer.module, partial(self._after, watch), always=True)
        for module in self.model.modules():
            if takes_time_first(module):
                hooks.before(module, self._claim_time_first)

    def _detach(self) -> None:
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None
        self._forwards.clear()

    def _enter_container(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if in_backward():
            return
        self._entered.add(id(module))
        forward = self._forwards.current
        # A call of the model starts anew: one that KeyboardInterrupt cut short never said that it ended.
        if forward is None or module is self.model or module is forward.owner:
            self._begin(module, args, kwargs)

    def _leave_container(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not in_backward():
            self._forwards.end(module)

    def _claim_time_first(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        forward = self._forwards.current
        if forward is not None and forward.lead is not None and first_tensor(args) is forward.lead:
            self._forwards.swap(forward)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forward:
        forward = self._forwards.begin(module, args, kwargs, self._find_masks)
        if forward.measured:
            forward.labels = named_labels(self._labels, forward, args, kwargs)
            with self._lock, torch.no_grad():
                self._count(forward)
        return forward

    def _count(self, forward: Forward) -> None:
        """Count the examples and positions of a measured forward, and fingerprint its data."""
        lead, own = forward.lead, forward.masks.own
        tokens = lead is not None and lead.dim() == 2 and not lead.is_floating_point()
        rows = forward.batch * (forward.time or 1) if tokens or (lead is not None and lead.dim() == 3) else forward.batch
        padding = 0
        if own is not None:
            rows, padding = int(own.real.sum()), int((~own.real).sum())
        for name, count in (("rows", rows), ("padding", padding), ("examples", forward.batch)):
            self._counts[name] += count
        image = lead is not None and lead.dim() == 4 and lead.shape[1] in (1, 3)
        self._units = {"unit": "token" if tokens else "position", "example_unit": "image" if image else "example"}
        if lead is not None and not lead.is_nested:
            self._digest = self._digest + digest(lead, forward.first).cpu()

    def _find_masks(self, arguments: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Masks:
        if self._mask == "auto":
            return find_masks(arguments)
        if callable(self._mask):
            own = _given_padding(self._mask(args, kwargs), "mask")
            return Masks(own, own, own)
        return Masks()

    def _padding_of(self, watch: Watch, forward: Forward) -> Padding | None:
        if not isinstance(self._mask, Mapping):
            return forward.masks.of(watch.layer.name, forward.decoder_fired)
        for pattern, mask in self._mask.items():
            if fnmatch.fnmatchcase(watch.layer.name, pattern):
                if ("given", pattern) not in forward.cache:
                    forward.cache["given", pattern] = _given_padding(mask, pattern)
                padding: Padding = forward.cache["given", pattern]
                return padding
        return None

    def _before(self, watch: Watch, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if in_backward():
            return
        forward = self._forwards.current
        if forward is None or module is self.model or module is forward.owner:
            forward = self._begin(module, args, kwargs)
        if not forward.measured or watch.refused:
            return
        with self._lock:
            if watch.depth is None:
                watch.depth, self._depth = self._depth, self._depth + 1
            if forward.masks.two_sided and side_of(watch.layer.name) == "decoder":
                forward.decoder_fired = True
            tensor = first_tensor(args)
            tensor = first_tensor(kwargs.values()) if tensor is None else tensor
            if tensor is None:
                watch.note("a call without a tensor among its arguments is left out")
            elif watch.settled:
                self._take(watch, "input", tensor, forward)
            else:
                # The output decides how the input reads, and the layer may overwrite its input.
                forward.stash[watch.index] = tensor.detach().clone()

    def _after(self, watch: Watch, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        forward = self._forwards.current
        if in_backward() or forward is None:
            return
        tensor = first_tensor([output])
        if forward.measured and not watch.refused and tensor is not None:
            with self._lock:
                stashed = forward.stash.pop(watch.index, None)
                if stashed is not None:
                    self._settle(watch, module, stashed, tensor)
                    if not watch.refused:
                        self._take(watch, "input", stashed, forward)
                if not watch.refused:
                    self._take(watch, "output", tensor, forward)
                    watch.meet(module)
                    watch.snapshot_vectors(module)
        self._forwards.end(module)

    def _settle(self, watch: Watch, module: nn.Module, before: Tensor, after: Tensor) -> None:
        with torch.no_grad():
            try:
                watch.settle(module, before, after.detach())
            except Exception as error:
                watch.note(f"its first call could not be looked at: {_said(error)}")

    def _take(self, watch: Watch, site: str, tensor: Tensor, forward: Forward) -> None:
        """Measure; what cannot be measured is the ledger's to say, never the user's forward to fail on."""
        padding = self._padding_of(watch, forward)
        with torch.no_grad():
            try:
                take(watch, site, tensor, forward, padding, seed=self._seed, k=self._samples)
            except Exception as error:
                watch.note(f"a call is left out at its {site}: {_said(error)}")

    def _meta(self) -> dict[str, Any]:
        """What the recording says of its circumstances."""
        options = {
            "layers": _shown(self._filter[0]),
            "kinds": _shown(self._filter[1]),
            "mask": _shown(self._mask),
            "samples": "all" if self._samples is None else self._samples,
            "values": self._values,
            "every": self._forwards.every,
            "seed": self._seed,
        }
        counts = {"forwards": self._forwards.calls, "measured": self._forwards.measured, **self._counts}
        modes = {mode: None for watch in self._watches.values() for mode in watch.modes}
        return {
            **describe(self.model),
            **counts,
            "unit": self._units.get("unit", "position"),
            "example_unit": self._units.get("example_unit", "example"),
            "training": list(modes),
            "parts": [self.part],
            "digests": {self.part: [counts["examples"], int(self._digest)]},
            "options": options,
        }


def record(model: nn.Module, batches: Any, *, progress: Callable[[int], None] | None = None, **options: Any) -> Recording:
    """Run a model over batches in evaluation mode, without gradients, and measure it.

    >>> recording = normprobe.record(model, [torch.randn(8, 100)])
    >>> recording = normprobe.record(model, loader, layers="encoder.*", samples="all")

    Args:
        model: the model; its modes are as before afterwards.
        batches: an iterable of tensors, of tuples or lists (positional arguments) or of mappings (keyword
            arguments); a single tensor or mapping counts as one batch.
        progress: called with the number of batches done, after each.
        **options: as `Probe` takes them.

    Raises:
        NoLayersError: there is nothing to probe.
        NormprobeError: an option or a batch is not of the form above.
    """
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    probe = Probe(model, **options)
    try:
        for module, _ in modes:
            module.training = False
        with probe, torch.no_grad():
            for done, batch in enumerate([batches] if isinstance(batches, (Tensor, Mapping)) else batches, 1):
                _call(model, batch)
                if progress is not None:
                    progress(done)
    finally:
        for module, mode in modes:
            module.training = mode
    return probe.recording


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Tensor):
        model(batch)
    elif isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, (tuple, list)):
        model(*batch)
    else:
        raise NormprobeError(
            f"a batch is a tensor, a tuple or list of arguments, or a mapping of them; got {type(batch).__name__}"
        )


def _check_options(samples: Any, values: Any, every: Any, mask: Any) -> None:
    """Refuse options out of range, in words."""
    whole = {"values": (values, 0), "every": (every, 1)}
    if samples != "all":
        whole["samples"] = (samples, 0)
    for name, (given, least) in whole.items():
        if isinstance(given, bool) or not isinstance(given, int) or given < least:
            also = ' or "all"' if name == "samples" else ""
            raise NormprobeError(f"{name} must be a whole number of at least {least}{also}, got {given!r}")
    if not (mask is None or mask == "auto" or callable(mask) or isinstance(mask, Mapping)):
        raise NormprobeError(
            f'mask must be "auto", None, a callable or a dict of tensors by layer, got {type(mask).__name__}'
        )


def _given_padding(mask: Any, name: str) -> Padding | None:
    """A user's mask as it is; True = real."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        got = f"shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise NormprobeError(f"the mask {name!r} must be a bool tensor (batch, positions), True = real; got {got}")
    real = to_real(mask.to(torch.bool))
    return None if real is None else Padding(name, real)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def _shown(option: Any) -> Any:
    """An option as JSON holds it."""
    if option is None or isinstance(option, (str, int)):
        return option
    if isinstance(option, Mapping):
        return sorted(map(str, option))
    return [str(entry) for entry in option] if isinstance(option, (list, tuple, set)) else getattr(option, "__name__", "callable")
