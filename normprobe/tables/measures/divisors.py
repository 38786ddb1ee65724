"""What norms divide by: the variance (or mean square) of a sample, a group of features, a channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from normprobe.tables.columns.tables import SITE_KEY
from normprobe.tables.measures.by_site import grouped, numbers
from normprobe.tables.measures.common import at_site, cached
from normprobe.tables.measures.features import finite_features
from normprobe.tables.measures.samples import sample_measures
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

_NORMALIZED = 0.5
"""A mean square after normalization, scale and shift aside, from which on eps is less than the variance."""

_BY_SAMPLE = ("layer_norm", "rms_norm")


@cached
def divisor_measures(tables: Tables) -> pd.DataFrame:
    """What the norms divide by, before eps is added, by layer at site ``input``.

    Columns: ``divisor`` (a variance; of an ``rms_norm`` a mean square) and ``of`` (of what: sample, group,
    channel or output). Of a norm over all features of a sample it is that of the median sample. Of one over
    groups (GroupNorm, grouped RMS norms) or over the channels of an example (InstanceNorm), that of the
    median group: of all its values, or what the output says, if that is less. A norm that divides by v + eps
    writes, scale and shift aside, the mean square v / (v + eps). Of a batch norm it is that of the median
    channel that varies: the larger of running variance and variance seen, or the latter alone in train mode.
    Where something else than the input is normalized (``normalizes`` in the ledger), only the output tells.
    Groups and channels of exactly 0 are left out.
    """
    ledger = tables.ledger.set_index("layer")
    norms = ledger[(ledger["kind"] != "linear") & (ledger["calls"] > 0)]
    channels_of, channel_variances = _channels(tables), cache(partial(_channel_variances, tables))
    by_sample = sample_measures(tables)
    samples = (at_site(by_sample, INPUT) if len(by_sample) else by_sample).to_dict("index")
    rows = {}
    for layer, row in norms.to_dict("index").items():
        name, kind = str(layer), row["kind"]
        of_input = row.get("normalizes", "") not in ("other", "unknown")
        groups = 1 if pd.isna(row.get("groups", pd.NA)) else int(row["groups"])
        if kind == "batch_norm":
            found = ("channel", channel_variances().get(name, np.nan))
        elif kind in _BY_SAMPLE and groups == 1 and of_input:
            column = "sample_square" if kind == "rms_norm" else "sample_variance"
            found = ("sample", samples.get(name, {}).get(column, np.nan))
        elif kind in (*_BY_SAMPLE, "group_norm", "instance_norm"):
            channels = channels_of(name)
            each = int(channels["feature"].max()) + 1 if kind == "instance_norm" and len(channels) else groups
            plain = not row.get("activation", "") and row.get("normalizes", "") != "unknown"
            found = _of_groups(channels, each, kind, float(row["eps"]), of_input=of_input, plain=plain)
        else:
            continue
        rows[name, INPUT] = found
    index = pd.MultiIndex.from_tuples(list(rows) or [("", "")], names=SITE_KEY)[: len(rows)]
    frame = pd.DataFrame(list(rows.values()), columns=["of", "divisor"], index=index)
    return frame.astype({"divisor": "float64"})


def _channels(tables: Tables) -> Callable[[str], pd.DataFrame]:
    """How to get the features of a norm at its input and output."""

    @cache
    def features() -> tuple[pd.DataFrame, Mapping[Any, Any]]:
        """Those of all norms, and each one's rows; most networks have only norms that need none of them."""
        found = finite_features(tables)
        site = found["site"]
        found = found[(found["kind"] != "linear") & ((site == INPUT) | (site == OUTPUT))]
        return found, found.groupby("layer", sort=False, observed=True).indices

    def of_layer(layer: str) -> pd.DataFrame:
        found, rows = features()
        chosen: pd.DataFrame = found.iloc[rows.get(layer, [])]
        return chosen

    return of_layer


def _unscaled(channels: pd.DataFrame) -> pd.Series:
    """The mean square of what a norm writes, its scale and shift taken off."""
    weight, bias = channels["weight"], channels["bias"].fillna(0.0)
    square = channels["variance"] + (channels["mean"] - bias) ** 2
    return square / weight.where(weight != 0) ** 2


def _channel_variances(tables: Tables) -> dict[str, float]:
    """The variance of the median channel of each batch norm, by layer."""
    norms = tables.ledger[tables.ledger["kind"] == "batch_norm"]
    trains = norms.set_index("layer")["training"].fillna("").str.contains("train")
    features = finite_features(tables)
    channels = features[(features["kind"] == "batch_norm") & (features["site"] == INPUT)]
    channels = channels[~channels["constant"]]
    sites = grouped(channels)
    seen, running = (numbers(channels, name) for name in ("seen_variance", "running_var"))
    layers = sites.index.get_level_values("layer")
    alone = trains.reindex(layers).to_numpy(dtype=bool) | (sites.number(~np.isnan(running)) == 0)
    larger = np.where(sites.of(alone), seen, np.maximum(seen, running))
    middle = sites.median(np.where(larger > 0, larger, np.nan))
    return dict(zip(map(str, layers), middle.tolist(), strict=True))


def _of_groups(
    channels: pd.DataFrame, groups: int, kind: str, eps: float, *, of_input: bool, plain: bool
) -> tuple[str, float]:
    """The variance (or mean square) of the median group of features.

    Args:
        channels: the features of the norm at both sites.
        groups: how many groups they fall into, in order.
        kind: its kind.
        eps: what it adds.
        of_input: whether its input is what it normalizes.
        plain: whether its output is what it normalized, scaled and shifted, and nothing else.
    """
    size = channels["feature"].max() + 1 if len(channels) else 0
    if not groups or size % groups:
        return "group", np.nan
    group = channels["feature"] // (size // groups)
    inputs, outputs = channels["site"] == INPUT, channels["site"] == OUTPUT
    mean, square = (
        (channels[name] if name == "mean" else channels["variance"] + channels["mean"] ** 2)[inputs]
        .groupby(group[inputs])
        .mean()
        for name in ("mean", "square")
    )
    whole = square if kind == "rms_norm" else (square - mean**2).clip(lower=0.0)
    # Of two equal numbers a difference leaves some rounding.
    whole = whole.where(whole > 1e-12 * square, 0.0) if of_input else whole * np.nan
    written = _unscaled(channels[outputs]).groupby(group[outputs]).mean()
    small = written < _NORMALIZED if plain else written.isna() & False
    # v / (v + eps), solved for v.
    implied = (eps * written / (1 - written)).where(small)
    found = pd.concat([whole, implied], axis=1).min(axis=1)
    what = "channel" if kind == "instance_norm" else "output" if not of_input else "group"
    found = found[(found > 0) | found.isna()]
    # Before pandas 3 the median of nothing warns.
    return what, float(found.median()) if found.notna().any() else np.nan
