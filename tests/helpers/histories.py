"""Histories of runs, made by hand: windows of ten steps of training, whose numbers are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from normprobe.tables.measures.history import History

VARIANCES = Mapping[tuple[str, str], list[float]]


def history(variances: VARIANCES, **columns: Any) -> History:
    """Windows of ten steps of training, with these variances of each layer and site."""
    depth = {layer: number for number, layer in enumerate(dict.fromkeys(layer for layer, _ in variances))}
    rows = [
        {
            **{"window": w, "phase": "train", "first_step": 10 * w, "last_step": 10 * w + 9},
            **{"layer": layer, "site": site, "kind": "linear", "depth": depth[layer], "n_features": 4},
            **{"n_samples": 100, "count": 400, "mean": 0.0, "m2": 400 * value, "nonfinite": 0},
            **{"trains": True, "running_shift": np.nan, "running_ratio": np.nan},
            **{name: given[w] for name, given in columns.items()},
        }
        for (layer, site), values in variances.items()
        for w, value in enumerate(values)
    ]
    sites = pd.DataFrame(rows)
    windows = sites.drop_duplicates("window")[["window", "phase", "first_step", "last_step"]]
    return History(windows.reset_index(drop=True), sites, pd.DataFrame(), {}, {})


def gradients(rms: list[float]) -> History:
    return history({(f"blocks.{b}.up", "output_gradient"): [value**2] for b, value in enumerate(rms)})


def parameters(ratios: list[float]) -> History:
    rows = [
        {
            **{"window": w, "first_step": 10 * w, "last_step": 10 * w + 9, "layer": "a", "kind": "linear"},
            **{"parameter": "weight", "updates": 10, "update_ratio": ratio},
        }
        for w, ratio in enumerate(ratios)
    ]
    return History(pd.DataFrame(), pd.DataFrame(), pd.DataFrame(rows), {}, {})


def lag(ratios: list[float]) -> History:
    """Windows of one batch norm whose running variance is off by these factors."""
    windows = history({("bn", "input"): [1.0] * len(ratios)}, running_ratio=ratios)
    return History(windows.windows, windows.sites.assign(kind="batch_norm"), windows.parameters, {}, {})
