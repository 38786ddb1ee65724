"""What a probe keeps of one layer while it runs: how it is read, what it did, what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from normprobe.capture.calls.buffer_changes import BufferChanges, BufferTracker
from normprobe.capture.calls.norm_facts import ShownByCall, is_trainable, norm_facts
from normprobe.capture.calls.readings import NO_INPUT, NO_OUTPUT, Readings, readings_of
from normprobe.capture.states.block_chains import BlockChain
from normprobe.capture.states.group_state import of_no_group
from normprobe.capture.states.parameter_sums import ParameterSums
from normprobe.capture.states.site_registry import TensorOf, registered_sites
from normprobe.capture.states.site_state import SiteState
from normprobe.capture.states.weight_digest import weight_digest
from normprobe.layers.layer import Layer
from normprobe.layers.module_attributes import PARAMETER_HOLDERS, keras_variables
from normprobe.layers.norms.affine import applied_bias, applied_weight, vector
from normprobe.layers.settings import settings_of
from normprobe.layers.view import REPEATS, WRAPS, View
from normprobe.samples.layout import Layout
from normprobe.samples.masks import SequenceRule
from normprobe.samples.reservoir import Reservoir
from normprobe.tables.records import LayerRecord, valid_name, valid_text
from normprobe.vocabulary import (
    BRANCH,
    ENTROPY,
    FIRED,
    GRADIENT_SITES,
    INPUT,
    MAX_LOGIT,
    NORM_KINDS,
    OUTPUT,
    UNMEASURED,
)

UNALIGNED = "its samples could not be numbered as the forward's and are numbered within the layer"
NONE_CAME = "no gradient came for {} of its tensors: backward was not run, or its loss does not need them"
NO_NUMBERS = "none of its calls read and gave floating numbers"
NO_CALL_MEASURED = "it was called, and no call could be measured"
FURTHER_SITES = {"residual": (BRANCH,), "attention": (MAX_LOGIT, ENTROPY)}
"""By kind, the sites that layers which hold others have; their calls are open while those of others are."""
MOST_UNDECIDED = 8
"""After so many calls that could not tell how a layer computes, its name is believed for good."""


@dataclass(eq=False)
class LayerState:
    """The running state of one layer, from the first entry of a probe to its end; the probe's lock guards it.

    The extension's hooks read `index`, `scaled` and the counters of `sites`, add to `masked_by` and call
    `note_mode`, by these names.

    Attributes:
        index: its place among the probed layers.
        layer: what was found on entry.
        view: how its tensors read, corrected by the first call.
        sites: what was measured at each of its sites, by name in the order of the vocabulary.
        further_sites: of those beside input and output, what gives their tensors.
        settled: whether how the layer computes is known: from its class, or from a call.
        undecided_calls: how many calls did not tell.
        offset: what the layer adds to its stored weight before scaling; None where unknown.
        factor: what the layer scales by beside its stored weight.
        modes: train and eval, as the layer ran.
        grads: the gradient modes it ran in.
        masked_by: the masks applied.
        reasons: what was left out and why, with how often.
        refused: why the layer is not measured, or "".
        depth: order of first execution.
        vectors: weight, bias and running statistics at the last measured call.
        buffers: how its running statistics move.
        sequence_rule: which sequence of a forward it works on.
        scaled: whether it may have vectors of its own to record.
        holds_layers: whether it is a layer by what it holds: a block, or attention.
        functional_calls: how many of its calls no hook saw, but the use of its weight showed.
        sequence: the sequence that it was seen to work on, where several have masks.
        sequence_certain: whether which sequence it works on does not depend on the forward.
        unmasked: how many measured calls held padding, for the mask did not fit.
        shown: what the call that settled it showed beside how it is read.
        train_in_eval: in how many forwards of a model in evaluation mode it was in train mode.
        normalizes: whether its input is what it normalizes, as the ledger says it.
        unlike: whether the call looked at last does not normalize, though others do.
        readings: which tensors of its calls it reads and writes.
        watched: whether hooks of others behind it were looked for.
        shown_vectors: those of a window that is recorded after calls of another; None for the last ones.
        reopened: whether what it holds is of a window that is not the first.
        gradients: whether the gradients of its tensors are measured.
        awaited_gradients: how many of its tensors wait for their gradient.
        parameters: what was measured of its parameters at steps, by their names in it.
        chain: of a block of a residual stream that was found in a list, what its entries' calls show.
    """

    index: int
    layer: Layer
    view: View
    sites: dict[str, SiteState]
    further_sites: dict[str, TensorOf] = field(default_factory=dict)
    settled: bool = False
    undecided_calls: int = 0
    offset: float | None = 0.0
    factor: float = 1.0
    modes: dict[str, None] = field(default_factory=dict)
    grads: dict[str, None] = field(default_factory=dict)
    masked_by: dict[str, None] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    refused: str = ""
    depth: int | None = None
    vectors: dict[str, NDArray[Any]] = field(default_factory=dict)
    buffers: BufferTracker = field(init=False)
    sequence_rule: SequenceRule = field(init=False)
    scaled: bool = field(init=False)
    holds_layers: bool = field(init=False)
    functional_calls: int = 0
    sequence: str | None = None
    sequence_certain: bool = True
    unmasked: int = 0
    shown: ShownByCall = field(default_factory=ShownByCall)
    train_in_eval: int = 0
    normalizes: str = ""
    unlike: bool = False
    readings: Readings = field(init=False)
    watched: bool = False
    shown_vectors: dict[str, NDArray[Any]] | None = None
    reopened: bool = False
    gradients: bool = False
    awaited_gradients: int = 0
    parameters: dict[str, ParameterSums] = field(default_factory=dict)
    chain: BlockChain | None = None

    def __post_init__(self) -> None:
        self.buffers = BufferTracker(self.layer.module)
        kind = self.layer.view.kind
        self.scaled, self.holds_layers = kind in NORM_KINDS, kind in FURTHER_SITES
        self.sequence_rule = SequenceRule.named(self.layer.name)
        self._reservoirs = Reservoir(0), Reservoir(0)
        certain = self.layer.view.certain
        self.normalizes = "input" if certain and self.scaled else ""
        width = self.layer.n_features if kind == "linear" else None
        self.readings = readings_of(kind, certain=certain, width=width)
        self.noted_modes: set[tuple[bool, bool, bool]] = set()
        self._stamps: list[Any] | None = None
        # The dictionaries themselves: their values may be replaced at any time.
        holders = (child for child in self.layer.module.children() if isinstance(child, PARAMETER_HOLDERS))
        self._stores: list[Mapping[str, Tensor | None]] = [
            store for held in (self.layer.module, *holders) for store in (held._parameters, held._buffers)
        ]
        if variables := keras_variables(self.layer.module):
            self._stores.append(variables)

    @staticmethod
    def of(
        index: int, layer: Layer, samples: Reservoir, rows: Reservoir, *, gradients: bool = False
    ) -> LayerState:
        """A fresh state, with the empty reservoirs that all fresh ones share."""
        # A layer that is a parameter has no call of its own, so nothing but what functions take and give.
        further = {} if layer.parameter else registered_sites(layer.module)
        own = FURTHER_SITES.get(layer.view.kind, ())
        names = (INPUT, OUTPUT, *(GRADIENT_SITES if gradients else ()), *own, *further)
        sites = {name: SiteState.of(samples, rows) for name in names}
        settled, refused = layer.view.certain, layer.refused
        state = LayerState(index, layer, layer.view, sites, further, settled=settled, refused=refused)
        state._reservoirs, state.gradients = (samples, rows), gradients
        return state

    def empty_site(self) -> SiteState:
        """A fresh site that keeps as many samples and rows as those of the layer."""
        return SiteState.of(*self._reservoirs)

    @property
    def empty_reservoirs(self) -> tuple[Reservoir, Reservoir]:
        """The reservoirs of samples and rows that its sites begin with."""
        return self._reservoirs

    @property
    def by_callback(self) -> bool:
        """Whether its calls are measured in Python alone: the extension knows of input and output."""
        return bool(self.further_sites) or self.holds_layers

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.layer.name

    @property
    def aligned(self) -> bool:
        """Whether every measured call could be numbered as the forward's."""
        return all(site.layout is not Layout.UNALIGNED and not site.unaligned for site in self.sites.values())

    @property
    def confirmed(self) -> bool:
        """Whether it is a layer: what may be one by nothing but what it holds must show it by a call."""
        shown = self.settled and not self.refused
        return shown or self.view.unconfirmed not in (WRAPS, REPEATS)

    @property
    def firings(self) -> int:
        """How often it was called, measured or not, recomputations in backward aside."""
        return self.sites[OUTPUT].counters.firings

    @firings.setter
    def firings(self, count: int) -> None:
        self.sites[OUTPUT].counters.firings = count

    def update_decided(self, form: int = 0) -> None:
        """Tell the counters whether everything about a call is decided, so that the extension may handle it.

        That a key projection of cross-attention reads another sequence depends on the forward, and a scale
        that a user's function gives on anything: their calls are looked at each time. So are those of a norm
        whose parameters lie in a child: the extension's stamps are of the module's own two dictionaries.

        Args:
            form: which arguments of the call just decided are tensors (`bits_of`).
        """
        own_vectors = self.view.weight is None and len(self._stores) == 2
        own_sequence = self.sequence_certain and not self.sequence_rule.cross
        decided = self.settled and not self.refused and own_sequence and own_vectors
        decided = decided and self.watched and self.readings.direct and not self.view.graph
        for site in self.sites.values():
            site.counters.decided = decided
            site.counters.form = 0 if self.readings.certain else form

    def note(self, reason: str) -> None:
        """Count a reason why something was left out."""
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def note_mode(self, training: bool) -> None:
        """Note the modes that the layer runs in."""
        mode = (training, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        if mode not in self.noted_modes:
            self.noted_modes.add(mode)
            self.modes["train" if training else "eval"] = None
            self.grads["grad" if mode[1] else "inference" if mode[2] else "no_grad"] = None

    def refuse(self, why: str) -> None:
        """Measure the layer no further, and forget what was measured."""
        self.refused = why
        # Empty sites, with reservoirs that keep nothing, in place of what calls before this one measured.
        firings = self.firings
        self.sites = {name: SiteState.of(Reservoir(0), Reservoir(0)) for name in self.sites}
        self.firings, self.settled = firings, True

    def snapshot_vectors(self, module: nn.Module) -> None:
        """Copy the scale, shift and running statistics that the call just measured applied."""
        # Copies: the optimizer writes to the tensors themselves.
        width = self.sites[OUTPUT].width
        if not self.scaled or width is None:
            return
        weight = applied_weight(module, self.view, self.offset, width, self.factor)
        if weight is not None:
            self.vectors["weight"] = weight.numpy().copy()
        bias = applied_bias(module, width, known=weight is not None)
        if bias is not None:
            self.vectors["bias"] = bias.numpy().copy()
        for name in ("running_mean", "running_var"):
            statistics = vector(module, name, width)
            if statistics is not None:
                self.vectors[name] = statistics.cpu().numpy().copy()

    def forget_vectors(self) -> None:
        """Have the next call copy the vectors, whatever the stamps say."""
        self._stamps = None
        for site in self.sites.values() if self.scaled else ():
            # The extension has stamps of its own: it hands on a call that is not decided.
            site.counters.decided = False

    def unchanged(self, module: nn.Module) -> bool:
        """Whether no tensor of the module's own was replaced or written to since the last snapshot.

        Id, address and version together: a write in place raises the version, `.data = ` moves the address,
        and a new tensor at an old one's id has another address or version.
        """
        stamps: list[Any] = [self.offset, self.factor]
        try:
            for tensor in chain.from_iterable(store.values() for store in self._stores):
                stamps.append(None if tensor is None else (id(tensor), tensor.data_ptr(), tensor._version))
        except RuntimeError:  # one made in inference mode has no version, a fake one no data
            return False
        unchanged = stamps == self._stamps and self.view.weight is None
        self._stamps = stamps
        return unchanged

    def record(
        self, never: tuple[str, str], skipped: Mapping[str, int] | None = None, *, moves: bool = True
    ) -> LayerRecord:
        """Freeze the state.

        Args:
            never: status and reason of a layer that did not fire.
            skipped: why forwards were left out, with how often.
            moves: whether how running statistics moved is counted here, and not in another window.
        """
        calls = max(site.counters.calls for name, site in self.sites.items() if name not in GRADIENT_SITES)
        status, reason = self._status(calls, never)
        fired = status == FIRED
        reasons = {**self.reasons, **(skipped or {})}
        notes = [f"{text} ({count} times)" if count > 1 else text for text, count in reasons.items()]
        notes += [UNALIGNED] if fired and not self.aligned else []
        notes += of_no_group({name: site.groups for name, site in self.sites.items()})
        notes += [NONE_CAME.format(self.awaited_gradients)] if self.awaited_gradients > 0 else []
        # Other kinds with running statistics (instance norm) have no finding that asks.
        tracked = moves and self.view.kind == "batch_norm"
        changes = self.buffers.changes() if tracked else BufferChanges(None, None)
        ledger = {
            **self._facts(changes),
            "training": "; ".join(self.modes),
            "grad": "; ".join(self.grads),
            "calls": calls,
            "status": status,
            "via": self._via() if fired or status == UNMEASURED else "",
            "masked_by": "; ".join(self.masked_by),
            "sample_unit": self.view.sample,
            "aligned": self.aligned if fired else None,
            "normalizes": self.normalizes,
            "reason": valid_text("; ".join([reason, *notes] if reason else notes)),
            "moved": changes.moved,
            "updates": changes.updates,
            "firings": self.firings,
            "unmasked": self.unmasked,
            "train_in_eval": self.train_in_eval,
            "gradients": self._gradients_measured(),
        }
        sites = [site.record(name) for name, site in self.sites.items() if site.counters.calls]
        parameters = tuple(sums.record(name) for name, sums in self.parameters.items())
        depth, of_sites = (self.depth, tuple(sites)) if fired else (None, ())
        return LayerRecord(ledger, depth, of_sites, dict(self.shown_vectors or self.vectors), parameters)

    def _facts(self, changes: BufferChanges) -> dict[str, Any]:
        """The columns of the ledger that say what the layer is."""
        layer = self.layer
        return {
            "layer": valid_name(layer.name),
            "aliases": valid_name("; ".join(layer.aliases)),
            "kind": self.view.kind,
            "type": layer.type,
            "n_features": self._n_features(),
            "eps": self.shown.eps if layer.eps is None else layer.eps,
            "affine": layer.affine,
            **norm_facts(layer.module, self.view, self.shown, self.modes, moved=changes.moved),
            # Of a parameter the module is the holder's, whose settings are not this layer's.
            "settings": "" if layer.parameter else settings_of(layer.module, self.view.kind),
            "trainable": is_trainable(layer.module),
            "weights": weight_digest(layer),
            "expert_of": valid_name(layer.expert_of),
            "expert": layer.expert,
            "router_of": valid_name(layer.router_of),
        }

    def _status(self, calls: int, never: tuple[str, str]) -> tuple[str, str]:
        """Its status and why, after so many measured calls."""
        # What it is called on are ids, or masks: no layer, so far as this run shows.
        without = not calls and not self.reasons.keys().isdisjoint((NO_INPUT, NO_OUTPUT))
        refused = self.refused or (NO_NUMBERS if without else "")
        # The notes say why none of its calls showed its weights.
        if refused or (self.view.kind == "attention" and not calls and self.firings):
            return "refused", refused
        # Of a call that was begun nothing may be measured: all were of a form left out, say, or raised.
        begun = self.depth is not None and (self.firings > 0 or not self.reopened)
        if not calls and begun:
            return UNMEASURED, "" if self.reasons else NO_CALL_MEASURED
        return (FIRED, "") if calls else never

    def _gradients_measured(self) -> int:
        """How many gradients were measured at its output, or at its input where more were."""
        measured = (self.sites[name].counters.calls for name in GRADIENT_SITES if name in self.sites)
        return max(measured, default=0)

    def _via(self) -> str:
        """What saw its calls: hooks, the functions that use its weight, or both."""
        functional = self.functional_calls > 0
        hook = self.firings > self.functional_calls or not functional
        return "; ".join(name for name, true in (("functional", functional), ("hook", hook)) if true)

    def _n_features(self) -> int | None:
        width = self.sites[INPUT].width
        return self.layer.n_features if width is None else width
