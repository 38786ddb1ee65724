"""Small tables with exactly the public columns, built from raw rows, to test checks on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from normprobe.errors import NoSamplesError
from normprobe.tables.columns.experts import EXPERTS
from normprobe.tables.columns.tables import missing, shaped

EXTREMES = [f"{end}_{what}" for end in ("min", "max") for what in ("part", "example", "position", "feature")]
FIRST_NONFINITE = [f"nonfinite_{what}" for what in ("part", "step", "call", "example", "position", "feature")]
LAYERS = [
    *("layer", "kind", "type", "site", "dtype", "sample_unit", "calls", "n_samples", "n_features", "mean"),
    *(
        "variance",
        "within_sample_variance",
        "within_feature_variance",
        "abs_mean",
        "abs_median",
        "min",
        "max",
    ),
    *EXTREMES,
    *("zero_fraction", "nonfinite", "masked", "nonfinite_masked", "depth", "abs_max", "feature_ratio"),
    *FIRST_NONFINITE,
]


RNG = np.random.default_rng(0)


def normal(scale: float = 1.0, rows: int = 64, features: int = 32) -> np.ndarray:
    """Independent normal values (rows, features)."""
    return scale * RNG.standard_normal((rows, features))


def no_rows(columns: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """A table of these columns without a row."""
    return pd.DataFrame({name: missing(dtype, 0) for name, (dtype, _) in columns.items()})


@dataclass(frozen=True, eq=False)
class FakeTables:
    """The frames that a check reads."""

    layers: pd.DataFrame
    features: pd.DataFrame
    samples: pd.DataFrame
    ledger: pd.DataFrame
    meta: Mapping[str, Any] = field(default_factory=dict)
    labels: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["part", "example", "position", "text"])
    )

    raw: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict)
    history_source: None = None
    whole: None = None
    experts: pd.DataFrame = field(default_factory=lambda: shaped(no_rows(EXPERTS), EXPERTS))

    def values(self, layer: str, site: str) -> np.ndarray:
        """The raw rows of a site: all of them."""
        if (layer, site) not in self.raw:
            raise NoSamplesError(f"no raw rows of {layer!r} {site}")
        return self.raw[layer, site]

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts: of no window."""
        return {"parts": ["part"], **self.meta}

    @property
    def ledger_base(self) -> pd.DataFrame:
        """The ledger with what it holds beyond the public columns."""
        return self.ledger

    @property
    def sites(self) -> pd.DataFrame:
        """The places, a row each."""
        return self.layers[["layer", "site"]]

    @property
    def sample_moments(self) -> pd.DataFrame:
        """The samples by numbers of places and parts."""
        places = {
            key: at for at, key in enumerate(zip(*(self.sites[name] for name in self.sites), strict=True))
        }
        keys = zip(self.samples["layer"], self.samples["site"], strict=True)
        return pd.DataFrame(
            {"place": [places[key] for key in keys], "part": pd.factorize(self.samples["part"])[0]}
        )


@dataclass(frozen=True)
class Layer:
    """One layer that fired: its rows (samples, features) before and after, and what the tables say of it."""

    name: str
    kind: str
    before: np.ndarray
    after: np.ndarray
    eps: float = 1e-5
    training: str = "eval"
    grad: str = "no_grad"
    dtype: str = "float32"
    calls: int = 1
    features: Mapping[str, Any] = field(default_factory=dict)
    ledger: Mapping[str, Any] = field(default_factory=dict)
    sites: Mapping[str, Any] = field(default_factory=dict)


def tables(*layers: Layer, meta: Mapping[str, Any] | None = None) -> FakeTables:
    """Return the tables of layers executed in this order; a row is a sample, one position per example."""
    sites = [
        (depth, layer, site, rows)
        for depth, layer in enumerate(layers)
        for site, rows in (("input", layer.before), ("output", layer.after))
    ]
    return FakeTables(
        layers=pd.DataFrame([_site(*each) for each in sites])[LAYERS],
        features=pd.concat([_features(*each[1:]) for each in sites], ignore_index=True),
        samples=pd.concat([_samples(*each[1:]) for each in sites], ignore_index=True),
        ledger=pd.DataFrame([_ledger(layer) for layer in layers]),
        meta=dict(meta or {}),
        raw={(layer.name, site): rows for _, layer, site, rows in sites},
    )


def _finite(rows: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(rows), rows, np.nan).astype("float64")


def _site(depth: int, layer: Layer, site: str, rows: np.ndarray) -> dict[str, Any]:
    values = _finite(rows)
    row = {
        **{"layer": layer.name, "kind": layer.kind, "type": layer.kind, "site": site, "dtype": layer.dtype},
        **{"sample_unit": "position", "calls": layer.calls, "n_samples": len(rows)},
        **{"n_features": rows.shape[1], "mean": np.nanmean(values), "variance": np.nanvar(values)},
        "within_sample_variance": np.nanmean(np.nanvar(values, axis=1)),
        "within_feature_variance": np.nanmean(np.nanvar(values, axis=0)),
        **{"abs_mean": np.nanmean(abs(values)), "abs_median": np.nanmedian(abs(values))},
        **{"min": np.nanmin(values), "max": np.nanmax(values), "zero_fraction": np.nanmean(values == 0)},
        **{"nonfinite": int(np.isnan(values).sum()), "masked": 0, "nonfinite_masked": 0, "depth": depth},
        # As on an accelerator: the first kept sample tells when it was.
        **dict.fromkeys(FIRST_NONFINITE, pd.NA),
    }
    for end, where in (("min", np.nanargmin(values)), ("max", np.nanargmax(values))):
        example, feature = divmod(int(where), rows.shape[1])
        row |= {
            f"{end}_part": "a",
            f"{end}_example": example,
            f"{end}_position": 0,
            f"{end}_feature": feature,
        }
    row |= layer.sites.get(site, {})
    largest = np.nanmax(abs(values), 0)
    middle = np.median(largest)
    ratio = largest.max() / middle if middle > 0 else np.nan
    return {"abs_max": max(abs(row["min"]), abs(row["max"])), "feature_ratio": ratio} | row


def _features(layer: Layer, site: str, rows: np.ndarray) -> pd.DataFrame:
    values = _finite(rows)
    nan = np.full(rows.shape[1], np.nan)
    frame = pd.DataFrame(
        {
            **{"layer": layer.name, "kind": layer.kind, "site": site, "feature": np.arange(rows.shape[1])},
            **{"count": np.isfinite(values).sum(0), "mean": np.nanmean(values, 0)},
            **{"variance": np.nanvar(values, 0), "min": np.nanmin(values, 0), "max": np.nanmax(values, 0)},
            **{"abs_mean": np.nanmean(abs(values), 0), "zero_fraction": np.nanmean(values == 0, 0)},
            "nonfinite": np.isnan(values).sum(0),
            **dict.fromkeys(("weight", "bias", "running_mean", "running_var"), nan),
            **dict.fromkeys(("seen_mean", "seen_variance"), nan),
            "abs_max": np.nanmax(abs(values), 0),
        }
    )
    if layer.kind == "batch_norm" and site == "input":
        frame = frame.assign(seen_mean=frame["mean"], seen_variance=frame["variance"])
    extra = {name: value for name, value in layer.features.items() if _belongs(name, site)}
    return frame.assign(**extra)


def _belongs(column: str, site: str) -> bool:
    return (site == "output") == (column in {"weight", "bias"})


def _samples(layer: Layer, site: str, rows: np.ndarray) -> pd.DataFrame:
    values = _finite(rows)
    return pd.DataFrame(
        {
            **{"layer": layer.name, "kind": layer.kind, "site": site, "part": "a", "call": 0, "repeat": 0},
            **{"example": np.arange(len(rows)), "position": 0, "mean": np.nanmean(values, 1)},
            **{"variance": np.nanvar(values, 1), "min": np.nanmin(values, 1), "max": np.nanmax(values, 1)},
            "count": np.isfinite(values).sum(1),
        }
    )


def _ledger(layer: Layer) -> dict[str, Any]:
    return {
        **{"layer": layer.name, "aliases": "", "kind": layer.kind, "type": layer.kind},
        **{"n_features": layer.before.shape[1], "eps": layer.eps, "affine": True},
        **{"training": layer.training, "grad": layer.grad, "calls": layer.calls, "status": "fired"},
        **{"via": "hook", "masked_by": "", "sample_unit": "position", "aligned": True, "reason": ""},
    } | dict(layer.ledger)
