"""From the base frames to the public tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from normprobe.moments import Moments, over, pool
from normprobe.tables.build import KEY, MOMENTS
from normprobe.tables.schema import FEATURES, LAYERS, LEDGER, SAMPLES, shaped


def moments_of(frame: pd.DataFrame) -> Moments:
    """The moments held in a frame's columns."""
    return Moments(*(frame[name].to_numpy() for name in MOMENTS))


def ledger_table(ledger: pd.DataFrame) -> pd.DataFrame:
    """A row per layer."""
    return shaped(ledger, LEDGER)


def layer_table(
    sites: pd.DataFrame, features: pd.DataFrame, rows: pd.DataFrame, ledger: pd.DataFrame
) -> pd.DataFrame:
    """A row per layer and site, from the moments of its features."""
    facts = ledger.set_index("layer")[["kind", "type", "sample_unit"]]
    frame = sites.join(facts, on="layer")
    groups = features.groupby(list(KEY), sort=False).indices
    medians = {key: float(np.median(np.abs(values))) for key, values in finite_rows(rows).items()}
    moments = moments_of(features)
    derived = [
        _site(moments.map(lambda field, at=groups[key]: field[at])) | {"abs_median": medians.get(key, np.nan)}
        for key in zip(sites["layer"], sites["site"], strict=True)
    ]
    columns = [
        "mean",
        "variance",
        "within_feature_variance",
        "abs_mean",
        "zero_fraction",
        "nonfinite",
        "abs_median",
    ]
    frame = frame.join(pd.DataFrame(derived, columns=columns, index=frame.index))
    frame["within_sample_variance"] = over(frame["within_sum"], frame["within_count"])
    return shaped(frame, LAYERS)


def _site(features: Moments) -> dict[str, Any]:
    """What a site's features say together."""
    total = pool(features)
    variances = features.variance[features.count > 0]
    return {
        "mean": float(np.where(total.count > 0, total.mean, np.nan)[0]),
        "variance": float(total.variance[0]),
        "within_feature_variance": float(variances.mean()) if len(variances) else np.nan,
        "abs_mean": float(total.abs_mean[0]),
        "zero_fraction": float(total.zero_fraction[0]),
        "nonfinite": int(total.nonfinite[0]),
    }


def finite_rows(rows: pd.DataFrame) -> dict[tuple[str, str], Any]:
    """The finite numbers among the kept rows of each layer and site."""
    found = {}
    for key, group in rows.groupby(list(KEY), sort=False)["values"]:
        values = np.concatenate(list(group))
        if np.isfinite(values).any():
            found[key] = values[np.isfinite(values)]
    return found


def feature_table(features: pd.DataFrame, ledger: pd.DataFrame) -> pd.DataFrame:
    """A row per layer, site and feature."""
    moments = moments_of(features)
    filled = moments.count > 0
    frame = features.assign(
        kind=_kinds(features, ledger),
        mean=np.where(filled, moments.mean, np.nan),
        variance=moments.variance,
        min=np.where(filled, moments.minimum, np.nan),
        max=np.where(filled, moments.maximum, np.nan),
        abs_mean=moments.abs_mean,
        zero_fraction=moments.zero_fraction,
    )
    running = ((frame["kind"] == "batch_norm") & (frame["site"] == "input")).to_numpy(bool)
    seen = running & (frame["seen_count"] > 0).to_numpy(bool)
    frame["seen_mean"] = np.where(seen, frame["seen_mean"], np.nan)
    frame["seen_variance"] = np.where(seen, over(frame["seen_m2"], frame["seen_count"]), np.nan)
    return shaped(frame, FEATURES)


def sample_table(samples: pd.DataFrame, ledger: pd.DataFrame) -> pd.DataFrame:
    """A row per layer, site and kept sample."""
    filled = samples["count"].to_numpy() > 0
    frame = samples.assign(kind=_kinds(samples, ledger), variance=over(samples["m2"], samples["count"]))
    for name in ("mean", "min", "max"):
        frame[name] = np.where(filled, samples[name], np.nan)
    return shaped(frame, SAMPLES)


def _kinds(frame: pd.DataFrame, ledger: pd.DataFrame) -> pd.Series:
    return frame["layer"].map(ledger.set_index("layer")["kind"])
