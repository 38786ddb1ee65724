"""Hold what a probe says of one model to a float64 two-pass reference with hooks of its own."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import normprobe
from normprobe.capture.identity.no_data import LEFT_OUT
from normprobe.layers.find import find_layers
from tests.helpers.oracle import RELATIVE, rows, tensors, two_pass, worst

SITES = ("input", "output")
_MOST_WAYS = 200
_TORCH_NORMS = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.CrossMapLRN2d,
    nn.modules.batchnorm._NormBase,
)
_CHANNELS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LocalResponseNorm, nn.CrossMapLRN2d)


@dataclass
class Checked:
    """What was found on one model.

    Attributes:
        layers: how many Linears and norms it has.
        fired: how many of them were measured.
        exact: how many of those agree with the reference, features and samples, before and after.
        functional: how many of them no hook of the reference sees, so that there is nothing to compare.
        declared: how many were not measured, with a reason.
        worst: the largest relative error of those that are exact.
        faults: what does not hold, in words: a silent miss, other outputs, a hook that is left, an error.
    """

    layers: int = 0
    fired: int = 0
    exact: int = 0
    functional: int = 0
    declared: int = 0
    worst: float = 0.0
    faults: list[str] = field(default_factory=list)


@cache
def _labels() -> dict[str, int]:
    """The feature axis of each norm class of transformers, labelled by hand."""
    labels = Path(__file__).parents[2] / "tests" / "layers" / "norms" / "norm_classes.csv"
    with labels.open() as file:
        return {row["class"]: int(row["axis"]) for row in csv.DictReader(file) if row["is_norm"] == "1"}


def expected(model: nn.Module) -> list[str]:
    """Names of the Linears and norms of a model: torch's, Conv1D, and those labelled by hand."""
    kinds = (nn.Linear, *_TORCH_NORMS)
    return [
        name
        for name, module in model.named_modules()
        if "parametrizations" not in name.split(".")
        and (isinstance(module, kinds) or type(module).__name__ in {"Conv1D", *_labels()})
    ]


def check(model: nn.Module, run: Callable[[], Any], mask: Tensor | None = None) -> Checked:
    """Run a model bare, under the reference's hooks, and probed; compare.

    Args:
        model: the model.
        run: calls it, once or several times.
        mask: which positions are real, shape (batch, time), where it was given one.

    Raises:
        NoLayersError: it has no Linear and no norm.
    """
    found, hooks = Checked(), hooks_of(model)
    names = {id(module): name for name, module in model.named_modules()}
    modules = {layer.name: layer.module for layer in find_layers(model).layers}
    called = {name: names[id(module)] for name, module in modules.items()}
    with torch.no_grad():
        torch.manual_seed(1)
        bare = run()
        torch.manual_seed(1)
        seen = tensors(model, dict.fromkeys([*expected(model), *called.values()]), run)
        torch.manual_seed(1)
        with normprobe.Probe(model, samples="all", values=1) as probe:
            probed = run()
    recording = probe.recording
    # Hooks keep torch from its fused encoder layer, whose results are rounded otherwise.
    fused = recording.ledger["reason"].str.contains("fused encoder").any()
    if not fused and not same(bare, probed):
        found.faults.append("outputs differ")
    if hooks_of(model) != hooks:
        found.faults.append("a hook is left")
    values = {(name, site): seen.get((called[name], site), []) for name in called for site in SITES}
    aliases = set("; ".join(recording.ledger["aliases"]).split("; ")) | set(called.values())
    found.faults += [
        f"silent: {name} is not in the ledger" for name in expected(model) if name not in aliases
    ]
    _compare(found, modules, recording, values, mask)
    return found


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def same(a: Any, b: Any) -> bool:
    """Whether two outputs are the same tensors, bit by bit."""
    if isinstance(a, Tensor):
        equal = isinstance(b, Tensor) and a.shape == b.shape and a.dtype == b.dtype
        return equal and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    if isinstance(a, dict):
        return all(same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return True


def _compare(found: Checked, modules: dict[str, nn.Module], recording: Any, seen: Any, mask: Any) -> None:
    """Go through the ledger: what fired must be exact, what did not must say why."""
    key = ["layer", "site"]
    tables = [dict(list(frame.groupby(key))) for frame in (recording.features, recording.samples)]
    masked = recording.layers.set_index(key)["masked"]
    for _, row in recording.ledger.iterrows():
        name, calls = row["layer"], len(seen.get((row["layer"], "output"), ()))
        found.layers += 1
        if row["status"] != "fired":
            found.declared += bool(row["reason"])
            if not row["reason"] or (calls and row["status"] == "never fired"):
                found.faults.append(f"silent: {name} is {row['status']}, called {calls} times")
            continue
        found.fired += 1
        if row["via"] == "functional":
            found.functional += 1
            continue
        if row["calls"] < calls and not row["reason"]:
            found.faults.append(f"silent: {name} was measured {row['calls']} times of {calls}")
        errors = [0.0]
        for site in SITES:
            if (name, site) in masked.index:
                ways = _readings(modules[name], seen[name, site], row, masked[name, site], mask)
                of_site = [table.get((name, site)) for table in tables]
                errors.append(min((site_error(*of_site, way) for way in ways), default=np.inf))
        if max(errors) <= RELATIVE:
            found.exact += 1
            found.worst = max(found.worst, *errors)
        else:
            found.faults.append(f"inexact: {name} ({row['type']}, {row['kind']}) by {max(errors):.1e}")


def _axis(module: nn.Module, row: pd.Series) -> tuple[int, int]:
    """The feature axis, and how many trailing axes make up the features."""
    if getattr(module, "data_format", "") == "channels_first" or isinstance(module, _CHANNELS):
        return 1, 1
    shape = getattr(module, "normalized_shape", 1)
    return _labels().get(row["type"], -1), 1 if isinstance(shape, int) else len(shape)


def _readings(
    module: nn.Module, values: list[Tensor], row: pd.Series, masked: int, mask: Tensor | None
) -> Iterator[list[np.ndarray]]:
    """The real rows of each call, (samples, rows, features), for each way in which the mask may lie."""
    axis, trailing = _axis(module, row)
    calls = []
    unbatched = getattr(module, "_get_no_batch_dim", lambda: 0)()
    for given in values:
        value = given[None] if given.dim() == unbatched else given
        data = rows(value, axis, 1 if axis == 1 else trailing)
        sizes = list(value.shape)
        lead = sizes[:1] + sizes[2:] if axis == 1 else sizes[: len(sizes) - trailing]
        count = sizes[0] if row["sample_unit"] == "example" else len(data)
        # But those that the ledger says were left out, such as those on a table of relative positions.
        if LEFT_OUT.format(tuple(lead)) not in row["reason"]:
            calls.append((data.reshape(count, -1, data.shape[1]) if len(data) else data[:, None], lead))
    if not masked or mask is None:
        yield [data for data, _ in calls]
        return
    # Calls of the same sizes are of the same sequence: each forward is run again.
    real, sizes = mask.bool().numpy(), list(dict.fromkeys(tuple(lead) for _, lead in calls))
    ways = [mask_layouts(real, list(lead)) for lead in sizes]
    for laid in islice(product(*ways), _MOST_WAYS):
        by_sizes = dict(zip(sizes, laid, strict=True))
        pairs = [(data, by_sizes[tuple(lead)]) for data, lead in calls]
        if sum(0 if where is None else int((~where).sum()) for _, where in pairs) == masked:
            yield [masked_rows(data, where, row["sample_unit"]) for data, where in pairs]


def masked_rows(data: np.ndarray, where: np.ndarray | None, unit: str) -> np.ndarray:
    """The rows of a call that are real; NaN for the others of an example."""
    if where is None:
        return data
    if unit == "position":
        return data[where.reshape(-1)]
    return np.where(where.reshape(*data.shape[:2], 1), data, np.nan)


def mask_layouts(real: np.ndarray, lead: list[int]) -> list[np.ndarray | None]:
    """The ways in which a mask may lie over the leading sizes of a tensor; None: it does not."""
    (batch, time), n = real.shape, len(lead)
    heads = lead[0] // batch if n else 1
    fewer = lead[1] if n > 1 and lead[0] == batch and lead[1] < time else 0
    laid = [
        (lead[:2] == [batch, time], real),
        (lead[:2] == [time, batch], real.T),
        (lead[:1] == [batch * time], real.reshape(-1)),
        (n > 1 and lead[1] == time and lead[0] % batch == 0, np.repeat(real, heads, 0)),
        (n > 2 and lead[0] == batch and lead[2] == time, real[:, None]),
        (n > 1 and lead[0] == batch and lead[1] > time, _longer(real, max(lead))),
        (n > 1 and lead[1] == batch and lead[0] > time, _longer(real, max(lead)).T),
        (n > 1 and lead[0] == batch and lead[1] > time, _prompted(real, max(lead))),
        *((fewer > 0, _scaled(real, fewer, rounded)) for rounded in (np.floor, np.ceil)),
    ]
    spread = [np.broadcast_to(m.reshape(*m.shape, *[1] * (n - m.ndim)), lead) for fits, m in laid if fits]
    return [*spread, None]


def _longer(real: np.ndarray, positions: int) -> np.ndarray:
    """A mask with padding that the model put behind the texts itself."""
    return np.pad(real, ((0, 0), (0, max(0, positions - real.shape[1]))))


def _prompted(real: np.ndarray, positions: int) -> np.ndarray:
    """A mask with a prompt that the model put before the texts itself."""
    ahead = max(0, positions - real.shape[1])
    return np.pad(real, ((0, 0), (ahead, 0)), constant_values=True)


def _scaled(real: np.ndarray, fewer: int, rounded: Callable[..., Any]) -> np.ndarray:
    """A mask of so many positions at the beginning of each text, behind strides."""
    lengths = rounded(real.sum(1) * fewer / real.shape[1])
    return np.arange(fewer) < lengths[:, None]


def site_error(features: pd.DataFrame, samples: pd.DataFrame | None, calls: list[np.ndarray]) -> float:
    """The worst relative error of a site's features and samples."""
    data = np.concatenate([call.reshape(-1, call.shape[2]) for call in calls])
    told = two_pass(data)
    if features["count"].tolist() != told["count"].tolist():
        return float("inf")
    of_features = worst(features["mean"], features["variance"], told["mean"], told["variance"])
    each = [two_pass(call.reshape(len(call), -1), axis=1) for call in calls if len(call)]
    if samples is None or not each:
        return of_features
    told = {name: np.concatenate([one[name] for one in each]) for name in each[0]}
    if len(samples) != len(told["mean"]):
        return float("inf")
    return max(of_features, *(_of_samples(samples, told, name) for name in ("mean", "variance")))


def _of_samples(samples: pd.DataFrame, told: dict[str, np.ndarray], name: str) -> float:
    """The worst error of the samples' means or variances, paired by their extremes and then by themselves."""
    keys = (name, "max", "min")
    mine = samples[name].to_numpy()[np.lexsort([samples[key].to_numpy() for key in keys])]
    true = {key: told[key][np.lexsort([told[one] for one in keys])] for key in ("mean", "variance")}
    found = true | {name: mine}
    return worst(found["mean"], found["variance"], true["mean"], true["variance"])
