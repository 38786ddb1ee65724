"""Hold a whole recording against the oracle: every table, every column that holds a statistic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import normprobe
from normprobe.layers.find import find_layers
from tests.helpers.oracle import RELATIVE, rows, tensors, two_pass, worst

CHANNELS = (nn.modules.batchnorm._NormBase, nn.GroupNorm)


@dataclass
class Truth:
    """The real rows of one layer and site: (samples, rows, features) of each call, NaN where padding."""

    calls: list[np.ndarray]

    @property
    def samples(self) -> np.ndarray:
        """Every sample as one row of numbers; padding pads with NaN."""
        flat = [call.reshape(len(call), call.shape[1] * call.shape[2]) for call in self.calls]
        width = max(call.shape[1] for call in flat)
        return np.concatenate(
            [np.pad(c, ((0, 0), (0, width - c.shape[1])), constant_values=np.nan) for c in flat]
        )

    @property
    def rows(self) -> np.ndarray:
        """Every row of features."""
        return np.concatenate([call.reshape(-1, call.shape[2]) for call in self.calls])


def read(module: nn.Module, tensor: torch.Tensor, real: np.ndarray | None) -> np.ndarray:
    """A layer's tensor as (samples, rows, features), by what torch's documentation says of the layer."""
    local = isinstance(module, nn.LocalResponseNorm)
    channels_first = local or getattr(module, "data_format", "") == "channels_first"
    channels = isinstance(module, CHANNELS)
    trailing = len(getattr(module, "normalized_shape", (0,)))
    if channels and isinstance(module, nn.modules.instancenorm._InstanceNorm):
        tensor = tensor[None] if tensor.dim() == module._get_no_batch_dim() else tensor
    data = rows(tensor, 1 if channels or channels_first else -1, 1 if channels_first else trailing)
    if channels:
        return data.reshape(len(tensor), -1, data.shape[1]) if len(tensor) else data[None][:0]
    data = data[:, None]
    if real is not None and tensor.shape[: real.ndim] == real.shape:
        data = data[real.reshape(-1)]
    return data


def hold(
    model: nn.Module,
    run: Callable[[], normprobe.Recording],
    *,
    masks: Callable[[int], list[np.ndarray] | None] = lambda calls: None,
    ordered: bool = True,
) -> float:
    """Run a model under the oracle, hold the recording that ``run`` returns to it; return the worst error.

    Args:
        model: the model that ``run`` records with ``samples="all"``.
        run: runs the model and returns the recording.
        masks: from the number of a layer's calls to the real positions of each, shape (batch, time); None
            if all are.
        ordered: samples are numbered in the order in which they lie in memory.
    """
    modules = dict(model.named_modules())
    found: list[normprobe.Recording] = []
    names = [layer.name for layer in find_layers(model).layers if not layer.parameter]
    seen = tensors(model, names, lambda: found.append(run()))
    recording = found[0]
    key = ["layer", "site"]
    hooked = set(recording.ledger["layer"][recording.ledger["via"] == "hook"])
    sites = recording.layers[recording.layers["layer"].isin(hooked)].set_index(key)
    features = dict(list(recording.features.groupby(key)))
    samples = dict(list(recording.samples.groupby(key)))
    fired = {key: values for key, values in seen.items() if values}
    assert set(sites.index) == set(fired)
    errors = [0.0]
    for (layer, site), values in fired.items():
        given = masks(len(values)) or [None] * len(values)
        truth = Truth([read(modules[layer], v, m) for v, m in zip(values, given, strict=True)])
        row = sites.loc[(layer, site)]
        of_features = features[layer, site]
        of_samples = samples.get((layer, site), recording.samples[:0])
        errors.append(hold_features(of_features, truth))
        errors.append(hold_samples(of_samples, truth, ordered=ordered))
        errors.append(hold_layer(row, truth, len(values)))
        if truth.rows.size:
            hold_values(recording.values(layer, site), row, of_samples, truth)
            hold_holders(row, of_samples, of_features)
    assert max(errors) < RELATIVE
    return max(errors)


def hold_features(frame: pd.DataFrame, truth: Truth) -> float:
    """The features table of one site."""
    data = truth.rows
    told = two_pass(data)
    finite = np.isfinite(data)
    assert frame["feature"].tolist() == list(range(data.shape[1]))
    assert frame["count"].tolist() == told["count"].tolist()
    assert frame["nonfinite"].tolist() == (~finite).sum(0).tolist()
    for name in ("min", "max"):
        np.testing.assert_array_equal(frame[name], told[name])
    filled = np.maximum(told["count"], 1)
    absent = np.where(told["count"] > 0, 0.0, np.nan)
    size = np.where(finite, np.abs(data), 0.0).sum(0) / filled + absent
    np.testing.assert_allclose(frame["abs_mean"], size, rtol=RELATIVE)
    np.testing.assert_array_equal(frame["zero_fraction"], (data == 0).sum(0) / filled + absent)
    return worst(frame["mean"], frame["variance"], told["mean"], told["variance"])


def hold_samples(frame: pd.DataFrame, truth: Truth, *, ordered: bool) -> float:
    """The samples table of one site, every sample kept."""
    data = truth.samples
    told = two_pass(data, axis=1)
    assert len(frame) == len(data)
    assert not frame.duplicated(["call", "repeat", "example", "position"]).any()
    if ordered:
        frame = frame.sort_values(["call", "repeat", "example", "position"])
        for name in ("min", "max"):
            np.testing.assert_array_equal(frame[name], told[name])
        return worst(frame["mean"], frame["variance"], told["mean"], told["variance"])
    mine, theirs = (
        np.lexsort((source["max"], source["min"])) for source in (frame.reset_index(drop=True), told)
    )
    columns = [np.asarray(frame[name], float)[mine] for name in ("mean", "variance")]
    return worst(*columns, told["mean"][theirs], told["variance"][theirs])


def hold_layer(row: pd.Series, truth: Truth, calls: int) -> float:
    """One row of the layers table, and both ways to split the total variance."""
    data, samples = truth.rows, truth.samples
    whole = two_pass(data.reshape(-1, 1))
    finite = np.isfinite(data)
    assert row["calls"] == calls
    assert row["n_samples"] == len(samples)
    assert row["n_features"] == data.shape[1]
    assert row["nonfinite"] == (~finite).sum()
    if not finite.any():
        assert row[["mean", "variance", "min", "max", "abs_mean", "within_sample_variance"]].isna().all()
        return 0.0
    inside = data[finite]
    assert (row["min"], row["max"]) == (inside.min(), inside.max())
    assert row["abs_mean"] == _close(np.abs(inside).mean())
    assert row["zero_fraction"] == _close((inside == 0).mean())
    of_features, of_samples = two_pass(data), two_pass(samples, axis=1)
    # The variance of a constant is rounding of its mean, squared.
    floor = (1e-12 * np.abs(inside).max()) ** 2
    assert row["within_feature_variance"] == _close(np.nanmean(of_features["variance"]), floor)
    assert row["within_sample_variance"] == _close(np.nanmean(of_samples["variance"]), floor)
    if finite.all() and len(set(of_samples["count"])) == 1:
        for told, name in ((of_features, "within_feature_variance"), (of_samples, "within_sample_variance")):
            assert row["variance"] == _close(row[name] + told["mean"].var(), floor)
    return worst([row["mean"]], [row["variance"]], whole["mean"], whole["variance"])


def hold_values(values: np.ndarray, site: pd.Series, samples: pd.DataFrame, truth: Truth) -> None:
    """The raw rows are rows of the tensor, those of the first samples in order of hash."""
    assert values.dtype == np.float64
    present = {row.tobytes() for row in truth.rows}
    assert all(row.tobytes() in present for row in values)
    first = samples.head(len(values))
    for row, low, high in zip(values, first["min"], first["max"], strict=True):
        inside = row[np.isfinite(row)]
        assert not len(inside) or (low <= inside.min() and inside.max() <= high)
        if truth.calls[0].shape[1] == 1 and len(inside):
            assert (inside.min(), inside.max()) == (low, high)
    median = site["abs_median"]
    inside = np.abs(values[np.isfinite(values)])
    assert np.isnan(median) if not len(inside) else median == _close(np.median(inside))


def hold_holders(row: pd.Series, samples: pd.DataFrame, features: pd.DataFrame) -> None:
    """Who is said to hold an extreme does: its sample and its feature have that very value."""
    for end in ("min", "max"):
        if np.isnan(row[end]):
            assert row[[f"{end}_{name}" for name in ("part", "example", "position", "feature")]].isna().all()
            continue
        who = [row[f"{end}_{name}"] for name in ("part", "example", "position")]
        same = (samples["part"] == who[0]) & (samples["example"] == who[1]) & (samples["position"] == who[2])
        assert row[end] in set(samples[same][end])
        assert features.set_index("feature")[end][row[f"{end}_feature"]] == row[end]


class _close:  # noqa: N801
    """Equal as far as the contract goes, or both as good as zero."""

    __hash__ = None

    def __init__(self, value: Any, floor: float = 0.0) -> None:
        self.value, self.floor = float(value), floor + 1e-290

    def __eq__(self, other: object) -> bool:
        return abs(float(other) - self.value) <= RELATIVE * abs(self.value) + self.floor

    def __repr__(self) -> str:
        return f"about {self.value!r}"
