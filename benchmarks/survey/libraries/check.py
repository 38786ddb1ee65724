"""Hold what a probe says of a library's model to a float64 reference and to what its layers compute."""

from __future__ import annotations

import csv
import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import normprobe
from benchmarks.survey.check import SITES, hooks_of, mask_layouts, masked_rows, same, site_error
from benchmarks.survey.libraries.behaviour import Fit, Reading, fits
from benchmarks.survey.libraries.calls import Called, looks, record_calls
from benchmarks.survey.libraries.entry import Entry
from normprobe.findings import find
from tests.helpers.oracle import RELATIVE

_TABLES = Path(__file__).parent
_TORCH = "torch.nn."
_WEIGHT = 2e-2
_ROUNDED = 1e-4
"""How near other roundings come: where hooks are decides how torch's fused encoder layer computes."""


Frames = dict[tuple[str, str], pd.DataFrame]


@dataclass(frozen=True)
class Tables:
    """A recording's tables by layer and site, and how near they must come to the reference.

    Attributes:
        features: rows of `features`.
        samples: rows of `samples`.
        layers: rows of `layers`.
        tolerance: the relative error that is allowed.
    """

    features: Frames
    samples: Frames
    layers: Frames
    tolerance: float

    @classmethod
    def of(cls, recording: Any, tolerance: float) -> Tables:
        """Those of a recording."""
        frames = (recording.features, recording.samples, recording.layers)
        by_site = (dict(list(frame.groupby(["layer", "site"]))) for frame in frames)
        return cls(*by_site, tolerance)


@dataclass(frozen=True)
class Fault:
    """What does not hold.

    Attributes:
        sort: one word: crash, outputs, hooks, missed, silent, name, kind, unit, inexact, mask, weight.
        layer: its name, or "".
        type: its class, or "".
        text: what is said and what is right.
    """

    sort: str
    layer: str
    type: str
    text: str


@dataclass
class Result:
    """What was found on one model.

    Attributes:
        layers: rows of the ledger.
        fired: how many of them were measured.
        exact: how many of those agree with the reference.
        functional: how many no hook sees, so that there is nothing to compare.
        declared: how many were not measured, with a reason.
        judged: how many norms the reference could tell the kind of.
        warnings: findings above a note, of the model as it was built: check and layer.
        faults: what does not hold.
    """

    layers: int = 0
    fired: int = 0
    exact: int = 0
    functional: int = 0
    declared: int = 0
    judged: int = 0
    warnings: list[tuple[str, str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


@cache
def known_classes() -> dict[str, dict[str, str]]:
    """Classes whose kind a call alone does not tell, by hand from the source of their libraries."""
    with (_TABLES / "classes.csv").open() as file:
        return {row["class"]: row for row in csv.DictReader(file)}


def known_class(module: nn.Module) -> dict[str, str] | None:
    """What is known of a module by hand: by its library, class and mode, or by its class alone."""
    name, mode = type(module).__name__, getattr(module, "mode", "")
    library = type(module).__module__.split(".")[0]
    known = known_classes()
    return known.get(f"{library} {name} {mode}".strip()) or known.get(name)


def examine(entry: Entry) -> Result:
    """Build a model, and run it bare, under the reference's hooks, and probed."""
    result = Result()
    torch.manual_seed(0)
    model = entry.make().train(entry.train)
    result.warnings = _warnings(entry, model)
    _stir(model)
    before = hooks_of(model)
    bare = _run(entry, model)
    calls: dict[int, list[Called]] = {}
    _run(
        entry,
        model,
        lambda run: calls.update(record_calls([*model.modules(), *entry.more(model).values()], run)),
    )
    holder: list[normprobe.Probe] = []

    def probed(run: Callable[[], Any]) -> Any:
        with normprobe.Probe(model, samples="all", values=1) as probe:
            output = run()
        holder.append(probe)
        return output

    output = _run(entry, model, probed)
    recording = holder[0].recording
    if not _is_fused(recording) and not same(bare, output):
        result.faults.append(
            Fault("outputs", "", type(model).__name__, "other outputs than the bare model's")
        )
    if hooks_of(model) != before:
        result.faults.append(Fault("hooks", "", type(model).__name__, "a hook is left"))
    _missed(result, model, recording.ledger, calls)
    _compare(result, entry, model, recording, calls)
    return result


def _is_fused(recording: Any) -> bool:
    return bool(recording.ledger["reason"].str.contains("fused encoder").any())


def _run(entry: Entry, model: nn.Module, around: Callable[[Callable[[], Any]], Any] | None = None) -> Any:
    """A call of the model that leaves its buffers and torch's generator as the one before found them."""
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    torch.manual_seed(1)
    with torch.no_grad():
        output = around(lambda: entry.call(model)) if around else entry.call(model)
        for name, buffer in model.named_buffers():
            if name in state and state[name].shape == buffer.shape:
                buffer.copy_(state[name])
    return output


def _warnings(entry: Entry, model: nn.Module) -> list[tuple[str, str, str]]:
    """The findings above a note of a model as it was built."""
    holder: list[pd.DataFrame] = []

    def probed(run: Callable[[], Any]) -> None:
        with normprobe.Probe(model) as probe:
            run()
        # Not the recording's own way, which refuses a model of which no layer is called as a module.
        holder.append(find(probe.recording.tables))

    _run(entry, model, probed)
    serious = holder[0][holder[0]["severity"] != "info"]
    return [(row["check"], row["layer"], row["message"]) for _, row in serious.iterrows()]


def _stir(model: nn.Module) -> None:
    """Scales, shifts and running statistics of norms that differ by feature and from 0 and 1."""
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        name = type(module).__name__.lower()
        if looks(module) and "linear" not in name:
            tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            for tensor in tensors:
                if tensor.is_floating_point() and sum(size > 1 for size in tensor.shape) == 1:
                    with torch.no_grad():
                        tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)


def _missed(result: Result, model: nn.Module, ledger: pd.DataFrame, calls: Mapping[int, Any]) -> None:
    """What looks like a Linear or a norm and is in no row of the ledger."""
    told = set(ledger["layer"]) | set("; ".join(ledger["aliases"]).split("; "))
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    for module in model.modules():
        own = names[id(module)]
        if told & set(own) or any("parametrizations" in name.split(".") for name in own) or not looks(module):
            continue
        kind = (known_class(module) or {}).get("kind", "")
        if kind != "none" and not _is_one_layer(
            module, {id(m) for m in model.modules() if told & set(names[id(m)])}
        ):
            text = f"no row, though {looks(module)} says so; called {len(calls.get(id(module), ()))} times"
            result.faults.append(Fault("missed", own[0], type(module).__name__, text))


def _is_one_layer(module: nn.Module, layers: set[int]) -> bool:
    """Whether a module is but a case round one layer that is in the ledger, and adds no numbers to it."""
    inside = [child for child in module.modules() if child is not module and id(child) in layers]
    if len(inside) != 1:
        return False
    of_layer = {id(tensor) for tensor in (*inside[0].parameters(), *inside[0].buffers())}
    return all(id(tensor) in of_layer for tensor in (*module.parameters(), *module.buffers()))


def _compare(result: Result, entry: Entry, model: nn.Module, recording: Any, calls: Any) -> None:
    """Go through the ledger: what fired must be right, what did not must say why."""
    modules = {**dict(model.named_modules(remove_duplicate=False)), **entry.more(model)}
    tables = Tables.of(recording, _ROUNDED if _is_fused(recording) else RELATIVE)
    for _, row in recording.ledger.iterrows():
        result.layers += 1
        name, module = row["layer"], modules.get(row["layer"])
        seen = calls.get(id(module), []) if module is not None else []
        if row["status"] != "fired":
            result.declared += bool(row["reason"])
            if not row["reason"] or (seen and row["status"] == "never fired"):
                text = f"{row['status']}, called {len(seen)} times: {row['reason']}"
                result.faults.append(Fault("silent", name, row["type"], text))
            continue
        result.fired += 1
        unseen = not seen or any(call.input is None or call.output is None for call in seen)
        if module is None or row["via"] == "functional" or unseen:
            result.functional += 1
            if module is None and row["via"] != "functional":
                result.faults.append(Fault("name", name, row["type"], "no module of the model has this name"))
            continue
        if row["calls"] < len(seen) and not row["reason"]:
            text = f"measured {row['calls']} times of {len(seen)}, without a reason"
            result.faults.append(Fault("silent", name, row["type"], text))
        result.faults += _judge(result, entry, module, row=row, tables=tables, seen=seen)


def _judge(
    result: Result, entry: Entry, module: nn.Module, *, row: pd.Series, tables: Tables, seen: list[Called]
) -> list[Fault]:
    """What is wrong about one layer that fired."""
    faults = []
    readings, fitted = _expected(module, row, seen)
    if row["kind"] != "linear":
        result.judged += bool(readings)
        faults += _kind_faults(row, readings)
        faults += _weight_faults(row, tables, fitted)
    of_kind = [reading for reading in readings if reading.kind == row["kind"]]
    tried = (of_kind or readings or _guesses(row, seen))[:3]
    errors = [_error(entry, row, tables, seen, reading) for reading in tried]
    error, masked = min(errors, default=(np.inf, ""))
    if masked:
        faults.append(Fault("mask", row["layer"], row["type"], masked))
    elif error > tables.tolerance:
        shapes = [tuple(call.output.shape) for call in seen if call.output is not None][:1]
        text = f"{row['kind']}, {row['n_features']} features of output {shapes} by {error:.1e}"
        faults.append(Fault("inexact", row["layer"], row["type"], text))
    else:
        result.exact += 1
    return faults


def _expected(module: nn.Module, row: pd.Series, seen: list[Called]) -> tuple[list[Reading], list[Fit]]:
    """How a layer reads: by its class where it is torch's own or known by hand, else by what it computes."""
    if row["kind"] == "linear":
        return [Reading("linear", -1)], []
    known = known_class(module)
    by_class = _reading_of_torch(module, seen) if known is None else _readings_of_table(known)
    first = next((call for call in seen if call.input is not None and call.output is not None), None)
    found = fits(module, first.input, first.output) if first is not None else []
    if by_class is None:
        return [fit.reading for fit in found], found
    kinds = {reading.kind for reading in by_class}
    return by_class, [fit for fit in found if fit.reading.kind in kinds]


def _readings_of_table(known: Mapping[str, str]) -> list[Reading]:
    return [Reading(kind, int(known["axis"]), unit=known["unit"]) for kind in known["kind"].split("|")]


def _reading_of_torch(module: nn.Module, seen: list[Called]) -> list[Reading] | None:
    """The reading of a norm whose forward is torch's own."""
    owner = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    if not owner.__module__.startswith(_TORCH):
        return None
    last = seen[0].output is not None and seen[0].output.dim() == 2
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        kind = "layer_norm" if isinstance(module, nn.LayerNorm) else "rms_norm"
        return [Reading(kind, -1, len(module.normalized_shape))]
    kinds = (
        ("instance_norm", nn.modules.instancenorm._InstanceNorm),
        ("batch_norm", nn.modules.batchnorm._BatchNorm),
        ("group_norm", nn.GroupNorm),
        ("norm", (nn.LocalResponseNorm, nn.CrossMapLRN2d)),
    )
    kind = next((kind for kind, cls in kinds if isinstance(module, cls)), None)
    return None if kind is None else [Reading(kind, -1 if last else 1, unit="example")]


def _guesses(row: pd.Series, seen: list[Called]) -> list[Reading]:
    """Where nothing tells the axis: those that have as many features as the ledger says."""
    shape = seen[0].output.shape if seen[0].output is not None else ()
    axes = [axis for axis in (-1, 1) if len(shape) > 1 and shape[axis] == row["n_features"]]
    return [Reading(row["kind"], axis, unit=row["sample_unit"]) for axis in axes]


def _kind_faults(row: pd.Series, readings: list[Reading]) -> list[Fault]:
    """Where the ledger's kind or sample is none of those that the reference allows."""
    if not readings:
        return []
    kinds = list(dict.fromkeys(reading.kind for reading in readings))
    if row["kind"] not in kinds:
        text = f"{row['kind']}, right: {' or '.join(kinds)} ({row['reason'] or 'no reason'})"
        return [Fault("kind", row["layer"], row["type"], text)]
    units = {"example" if r.unit == "graph" else r.unit for r in readings if r.kind == row["kind"]}
    if row["sample_unit"] not in units and "" not in units:
        right = " or ".join(sorted(units))
        text = f"sample {row['sample_unit']}, right: {right} ({row['reason'] or 'no reason'})"
        return [Fault("unit", row["layer"], row["type"], text)]
    return []


def _weight_faults(row: pd.Series, tables: Tables, fitted: list[Fit]) -> list[Fault]:
    """Where the scale that is told is not the one that the call was made with."""
    of_kind = [fit for fit in fitted if fit.reading.kind == row["kind"]]
    features = tables.features.get((row["layer"], "output"))
    told = np.empty(0) if features is None else features["weight"].to_numpy()
    if not of_kind or len(told) != len(of_kind[0].weight) or np.isnan(told).all():
        return []
    right = [fit.weight.numpy() for fit in of_kind]
    off = min(float(np.nanmax(np.abs(told - one)) / max(np.nanmax(np.abs(one)), 1e-12)) for one in right)
    if off < _WEIGHT:
        return []
    text = f"weight {told[:3].round(3).tolist()}, as applied {right[0][:3].round(3).tolist()}"
    return [Fault("weight", row["layer"], row["type"], text)]


def _error(
    entry: Entry, row: pd.Series, tables: Tables, seen: list[Called], reading: Reading
) -> tuple[float, str]:
    """The worst error of a layer's tables under one reading; what is wrong with its mask."""
    worst, real = 0.0, _mask_of(entry, row["layer"])
    for site in SITES:
        frames = (tables.features, tables.samples, tables.layers)
        features, samples, layers = (frame.get((row["layer"], site)) for frame in frames)
        if layers is None or features is None:
            return np.inf, ""
        values = [call.input if site == "input" else call.output for call in seen]
        calls = [_arranged(value, reading, real) for value in values if value is not None]
        left_out = sum(masked for _, masked in calls)
        if int(layers["masked"].iloc[0]) != left_out:
            return np.inf, f"{site}: {layers['masked'].iloc[0]} rows left out, right: {left_out}"
        of_samples = samples if row["sample_unit"] == reading.unit else None
        worst = max(worst, site_error(features, of_samples, [data for data, _ in calls]))
    return worst, ""


def _mask_of(entry: Entry, layer: str) -> Tensor | None:
    return next((mask for pattern, mask in entry.real.items() if fnmatch.fnmatch(layer, pattern)), None)


def _arranged(value: Tensor, reading: Reading, real: Tensor | None) -> tuple[np.ndarray, int]:
    """A tensor's real rows as (samples, rows, features), and how many rows were left out."""
    array, sizes = value.double().numpy(), list(value.shape)
    if reading.axis == 1 and value.dim() > 2:
        moved = np.moveaxis(array, 1, -1)
        lead, data = [sizes[0], *sizes[2:]], moved.reshape(-1, sizes[1])
    else:
        lead = sizes[: len(sizes) - reading.trailing]
        data = array.reshape(int(np.prod(lead)), -1)
    count = sizes[0] if reading.unit == "example" and len(lead) else len(data)
    arranged = data.reshape(count, -1, data.shape[1])
    where = None if real is None else mask_layouts(real.numpy(), lead)[0]
    left_out = 0 if where is None else int((~where).sum())
    return masked_rows(arranged, where, reading.unit), left_out
