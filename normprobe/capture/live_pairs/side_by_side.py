"""The hooks of a comparison of running models: the first one's tensors are kept until the second has run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normprobe.capture.batches.batch_arguments import BatchArguments
from normprobe.capture.hooks.handles import Hooks
from normprobe.capture.live_pairs.power_sums import LocalPowerSums, PowerSums
from normprobe.capture.states.site_registry import TensorOf, registered_sites
from normprobe.errors import ViewError
from normprobe.layers.find import Layer
from normprobe.layers.module_attributes import has_bias, stored
from normprobe.layers.to_rows import arrange
from normprobe.samples.batch import Signatures, first_tensor, read_batch
from normprobe.samples.masks import Masks, SequenceRule, find_masks
from normprobe.vocabulary import INPUT, OUTPUT


@dataclass(frozen=True, eq=False)
class Pair:
    """A layer of the first model and its counterpart in the second."""

    a: Layer
    b: Layer

    def further_sites(self) -> dict[str, tuple[TensorOf, TensorOf]]:
        """The registered sites that both have, and what gives the tensor in either."""
        own, other = ({} if layer.parameter else registered_sites(layer.module) for layer in (self.a, self.b))
        return {name: (own[name], other[name]) for name in own if name in other}


@dataclass(eq=False)
class LayerPowerSums:
    """What was summed of one pair of layers.

    Attributes:
        sites: by name of a site that both layers have.
        local: None where the layer could not be called again.
    """

    sites: dict[str, PowerSums]
    local: LocalPowerSums | None = field(default_factory=LocalPowerSums)

    @property
    def input(self) -> PowerSums:
        """The sums at the input."""
        return self.sites[INPUT]

    @property
    def output(self) -> PowerSums:
        """The sums at the output."""
        return self.sites[OUTPUT]


class SideBySide:
    """Keeps one batch's tensors of the first model, and sums how those of the second one differ.

    Attributes:
        examples: how many examples the first model has run on.
    """

    def __init__(self, model: nn.Module, pairs: list[Pair]) -> None:
        self.examples = 0
        self._model = model
        self._pairs = pairs
        self._further = [pair.further_sites() for pair in pairs]
        self._sums = [
            LayerPowerSums({site: PowerSums() for site in (INPUT, OUTPUT, *further)})
            for further in self._further
        ]
        self._signatures = Signatures()
        self._arguments = BatchArguments(model)
        self._masks = Masks()
        self._kept: dict[tuple[int, str, int], Tensor] = {}
        self._calls: dict[tuple[int, str], int] = {}
        self._again = False
        # The tensor kept last at an input, its version and its copy.
        self._latest: tuple[Tensor, int, Tensor] | None = None

    def found(self) -> dict[str, LayerPowerSums]:
        """The sums of each pair, by the name of the first model's layer."""
        return {pair.a.name: sums for pair, sums in zip(self._pairs, self._sums, strict=True)}

    @contextmanager
    def keeping(self, batch: Any) -> Iterator[None]:
        """Keep what the first model's layers read and give while the block runs."""
        # The second model's masks are these, too: it runs on the same batch.
        named = self._signatures.named(self._model, *self._arguments.of(batch))
        self._masks = find_masks(named)
        own = self._masks.own
        self.examples += read_batch(named, None if own is None else own.real.shape).size
        self._kept = {}
        with self._hooked("a", self._keep_input, self._keep_output):
            yield
        self._latest = None

    @contextmanager
    def comparing(self) -> Iterator[None]:
        """Compare what the second model's layers read and give while the block runs, then keep nothing."""
        try:
            with self._hooked("b", self._compare_input, self._compare_output):
                yield
        finally:
            self._kept = {}

    @contextmanager
    def _hooked(self, side: str, before: Callable[..., None], after: Callable[..., None]) -> Iterator[None]:
        self._calls = {}
        hooks = Hooks()
        try:
            for at, pair in enumerate(self._pairs):
                module = getattr(pair, side).module
                hooks.before(module, partial(self._unless_again, before, at))
                hooks.after(module, partial(self._unless_again, after, at))
            yield
        finally:
            hooks.remove()

    def _unless_again(self, callback: Callable[..., None], at: int, *called: Any) -> None:
        """Hand on a call of the model's own, not one of a layer inside one that is called again."""
        if not self._again:
            callback(at, *called)

    def _keep_input(self, at: int, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._keep(at, INPUT, first_tensor([*args, *kwargs.values()]))

    def _keep_output(self, at: int, module: nn.Module, *called: Any) -> None:
        self._keep(at, OUTPUT, first_tensor(called[2:]))
        for site, (tensor_of, _) in self._further[at].items():
            self._keep(at, site, _registered(tensor_of, module, called))

    def _compare_input(self, at: int, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._compare(at, INPUT, first_tensor([*args, *kwargs.values()]))

    def _compare_output(self, at: int, module: nn.Module, *called: Any) -> None:
        args, kwargs, output = called
        own = first_tensor([output])
        call = self._compare(at, OUTPUT, own)
        input_a, output_a = (self._kept.get((at, site, call)) for site in (INPUT, OUTPUT))
        for site, (_, tensor_of) in self._further[at].items():
            self._compare(at, site, _registered(tensor_of, module, called))
        local = self._sums[at].local
        if local is None or input_a is None or output_a is None or own is None:
            return
        self._again = True
        try:
            on_input_a = _called_again(module, args, kwargs, input_a)
        finally:
            self._again = False
        if on_input_a is None or not on_input_a.shape == output_a.shape == own.shape:
            self._sums[at].local = None
        else:
            self._add(at, local.add, output_a, own, on_input_a)

    def _next_call(self, at: int, site: str) -> int:
        """Which of the layer's calls in this batch it is; counts it."""
        call = self._calls.get((at, site), 0)
        self._calls[at, site] = call + 1
        return call

    def _keep(self, at: int, site: str, tensor: Tensor | None) -> None:
        call = self._next_call(at, site)
        if tensor is None:
            return
        if site != INPUT:
            self._kept[at, site, call] = tensor.detach().clone()  # the next layer may write to it
            return
        version = -1 if tensor.is_inference() else tensor._version
        # Layers that read one tensor, as query, key and value do, share a copy of it.
        if self._latest is None or self._latest[0] is not tensor or self._latest[1] != version or version < 0:
            self._latest = (tensor, version, tensor.detach().clone())
        self._kept[at, site, call] = self._latest[2]

    def _compare(self, at: int, site: str, tensor: Tensor | None) -> int:
        call = self._next_call(at, site)
        kept = self._kept.get((at, site, call))
        if kept is not None and tensor is not None and kept.shape == tensor.shape:
            self._add(at, self._sums[at].sites[site].add, kept, tensor)
        return call

    def _add(self, at: int, add: Callable[..., None], *tensors: Tensor) -> None:
        """Add the real rows of tensors of one shape, as the first model's layer reads them."""
        layer = self._pairs[at].a
        try:
            arranged = [arrange(layer.view, tensor.detach().to(tensors[0].device)) for tensor in tensors]
        except ViewError:  # too few axes for the layer's view: such a call is not compared
            return
        rows = [tensor.values.flatten(0, 1) for tensor in arranged]
        real = self._real(layer.name, (*arranged[0].leading, *arranged[0].inner))
        add(*rows if real is None else (row[real.to(row.device)] for row in rows))

    def _real(self, layer: str, sizes: tuple[int, ...]) -> Tensor | None:
        """Which rows are no padding, where the mask has an entry for each; None if all count."""
        rule = SequenceRule.named(layer)
        fired = rule.side == "decoder"
        padding = self._masks.of(rule.reads(two_sided=self._masks.two_sided, decoder_fired=fired))
        if padding is None or sizes not in (padding.real.shape, (padding.real.size,)):
            return None
        return torch.from_numpy(padding.real.reshape(-1))


def differing_tensors(a: Layer, b: Layer) -> dict[str, float]:
    """Weight and bias of two Linear layers that are not alike, and their relative difference.

    What both store beyond the rounding of the coarser dtype of the two counts; NaN where one of them has no
    bias. Norms apply what the tables hold.
    """
    if a.parameter or b.parameter or {a.view.kind, b.view.kind} != {"linear"}:
        return {}
    found: dict[str, float] = {}
    for name in ("weight", "bias"):
        own, other = stored(a.module, name), stored(b.module, name)
        if isinstance(own, Tensor) and isinstance(other, Tensor):
            difference = _relative_difference(own.detach(), other.detach())
            if difference is not None:
                found[name] = difference
        elif name == "bias" and {has_bias(a.module), has_bias(b.module)} == {True, False}:
            found[name] = math.nan
    return found


def _relative_difference(a: Tensor, b: Tensor) -> float | None:
    """Root of the sum of (b - a)² over that of a²; None if it is rounding, or they do not compare."""
    plain = all(tensor.is_floating_point() and tensor.layout is torch.strided for tensor in (a, b))
    if not plain or a.is_meta or b.is_meta:
        return None
    if a.shape != b.shape and a.T.shape == b.shape:  # of transformers' Conv1D and nn.Linear one is stored so
        a = a.T
    if a.shape != b.shape:
        return None
    rounding = max(torch.finfo(tensor.dtype).eps for tensor in (a, b))
    a, b = a.to("cpu", torch.float64), b.to("cpu", torch.float64)
    size, apart = float(a.norm()), float((b - a).norm())
    return apart / size if apart > rounding * size and size > 0 else math.inf if apart > size == 0 else None


def _registered(tensor_of: TensorOf, module: nn.Module, called: tuple[Any, ...]) -> Tensor | None:
    """The tensor at a registered site of a call (args, kwargs, output); None where its function has none."""
    try:
        tensor = tensor_of(module, *called)
    except Exception:
        return None
    return tensor if isinstance(tensor, Tensor) else None


def _called_again(module: nn.Module, args: Any, kwargs: Any, tensor: Tensor) -> Tensor | None:
    """The output of a layer's forward on another first tensor, without its hooks; None if it raises."""
    own = first_tensor([*args, *kwargs.values()])
    if own is None or own.shape != tensor.shape:
        return None
    other = tensor.to(own.device, own.dtype, copy=True)
    positional = [other if value is own else value for value in args]
    named = {name: other if value is own else value for name, value in kwargs.items()}
    # `forward`, not a call: the second model's hooks would take it for one of the model's own.
    try:
        with torch.random.fork_rng([own.device] if own.is_cuda else []):
            return first_tensor([module.forward(*positional, **named)])
    except Exception:
        return None
