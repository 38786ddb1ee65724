"""What the ledger says of layers that no hook sees, or that hooks change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from torch import nn

from normprobe.capture.forwards.forward import Forwards
from normprobe.capture.hooks.compiled import compiled_modules
from normprobe.capture.hooks.torch_internals import PRIVATE_TORCH
from normprobe.layers.experts import experts_in
from normprobe.layers.layer import Layer
from normprobe.layers.module_attributes import modules_in, parts_of

NO_CALL = "no forward was measured: call the model inside the block (code compiled before it calls no hook)"
NOT_LISTENING = "; uses of its weight alone were not looked for: NORMPROBE_PRIVATE_TORCH=0"
READ = "its weight was read ({}) without a call of its module, so what it reads and gives is not measured"
OTHERWISE = (
    "its weight was read ({}), but not as that of a Linear, so what it reads and gives is not measured"
)
NOT_PROBED = "their products are not probed"
NOT_PER_EXPERT = f"{NOT_PROBED} without experts=True"
PER_EXPERT = "what each reads and gives is in the table of experts"
RAN = "its `forward` ran without a call of its module, so what it reads and gives is not measured"

_NEVER_CALLED = (nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class RunCoverage:
    """How the forwards of a probe went.

    Attributes:
        model: the probed model.
        parents: for each module (by id) the one that holds it.
        entered: ids of the modules that were called and hold a layer.
        forwards: how many there were.
        measured: how many of them were measured.
        split: names of the fused projections whose parts for queries, keys and values were used as layers.
        reads: the function that read the weight of a layer, by the layer's key.
        tied: the layers that only the use of their weight made, by the id of that weight.
        experts: the keys of layers that are weights of experts and were measured as such.
    """

    model: nn.Module
    parents: Mapping[int, nn.Module]
    entered: Set[int]
    forwards: int
    measured: int
    split: Set[str]
    reads: Mapping[tuple[int, str], str]
    tied: Mapping[int, Layer]
    experts: Set[tuple[int, str]] = frozenset()

    @staticmethod
    def of(
        model: nn.Module,
        entered: Set[int],
        forwards: Forwards,
        layers: Iterable[Layer],
        reads: Mapping[tuple[int, str], str],
        *,
        experts: Set[tuple[int, str]] = frozenset(),
    ) -> RunCoverage:
        """How the forwards of a model went whose ``layers`` were found on entry or by their use."""
        parents = {id(child): module for module in modules_in(model) for child in parts_of(module).values()}
        # A list or dictionary of modules is never called itself: what holds it calls what it holds.
        lists = {key: parent for key, parent in parents.items() if isinstance(parent, _NEVER_CALLED)}
        for child, parent in lists.items():
            outer: nn.Module = parent
            while isinstance(outer, _NEVER_CALLED) and id(outer) in parents:
                outer = parents[id(outer)]
            parents[child] = outer
        every = list(layers)
        split = {layer.name.rpartition(".")[0] for layer in every if "." in layer.parameter}
        # Of several the first, which is the one that was found by its use.
        tied = {id(_weight(layer)): layer for layer in reversed(every) if layer.by_use}
        counts = forwards.calls, forwards.measured
        return RunCoverage(model, parents, entered, *counts, split, reads, tied, experts)


def why_unseen(coverage: RunCoverage, layer: Layer) -> tuple[str, str]:
    """The status (never fired or bypassed) and reason of a layer, should it not have fired."""
    if coverage.measured == 0:
        return "never fired", "no forward was measured" if coverage.forwards else NO_CALL
    # The weights of attention, a router or experts are parameters of the module that is called itself.
    parent = layer.module if layer.parameter else coverage.parents.get(id(layer.module))
    entered = id(parent) in coverage.entered
    bypassed = _why_bypassed(coverage, layer, parent) if entered else ""
    if not bypassed and layer.key in coverage.reads:
        name = coverage.reads[layer.key]
        bypassed = OTHERWISE.format(name) if layer.parameter else READ.format(name) if name else RAN
    if bypassed:
        return "bypassed", bypassed
    if next(compiled_modules(coverage.model), None) is not None:
        return (
            "never fired",
            "the model was compiled before the probe was entered; probe it before torch.compile",
        )
    if parent is not None and not entered and parent is not coverage.model:
        return "never fired", f"the {type(parent).__name__} that holds it was never called"
    used = "no function was seen to use it" if layer.parameter else "its module was never called"
    return "never fired", f"{used}, though the one that holds it was{'' if PRIVATE_TORCH else NOT_LISTENING}"


def _why_bypassed(coverage: RunCoverage, layer: Layer, parent: nn.Module | None) -> str:
    """Why a layer whose holder was called was not seen to be used, or ""."""
    weight = _weight(layer)
    tied = coverage.tied.get(id(weight))
    if tied is not None and tied.key != layer.key:
        return f"its weight is that of {tied.name or tied.type!r}, under which its use is measured"
    if weight is not None and (layer.key in coverage.experts or experts_in(layer.module, weight)):
        held = f"one tensor of shape {tuple(weight.shape)} holds the weights of all experts"
        return f"{held}; {PER_EXPERT if layer.key in coverage.experts else NOT_PER_EXPERT}"
    if weight is not None and weight.dim() > 2:
        return f"one tensor of shape {tuple(weight.shape)} holds several matrices; {NOT_PROBED}"
    if layer.name in coverage.split:
        return "its parts for queries, keys and values are used apart and are layers of their own"
    if isinstance(parent, nn.MultiheadAttention):
        return "torch's attention reads its weight in a fused kernel and never calls the module"
    return ""


def _weight(layer: Layer) -> nn.Parameter | None:
    """The parameter that a layer is, or None of a module that is one."""
    # From the dictionary: a module's own `__getattr__` may raise or compute.
    return layer.module._parameters.get(layer.parameter)
