"""The history of a run as frames, in which a file holds it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from normprobe.tables.columns.tables import PARAMETERS
from normprobe.tables.measures.history import History

_STEPS = {"window": "int64", "phase": "string", "first_step": "int64", "last_step": "int64"}
COLUMNS: dict[str, dict[str, str]] = {
    "history_windows": {**_STEPS, "forwards": "int64"},
    "history_sites": {
        **_STEPS,
        **dict.fromkeys(("layer", "site", "kind"), "string"),
        **dict.fromkeys(("depth", "n_features", "n_samples", "count"), "int64"),
        **dict.fromkeys(("mean", "m2"), "float64"),
        "nonfinite": "int64",
        "trains": "boolean",
        **dict.fromkeys(("running_shift", "running_ratio"), "float64"),
    },
    "history_parameters": {**{name: dtype for name, (dtype, _) in PARAMETERS.items()}, **_STEPS},
    "history_dead": {
        **dict.fromkeys(("phase", "layer"), "string"),
        **dict.fromkeys(("streak", "measured"), "int64"),
    },
}
"""The frames and the dtypes of their columns; of ``history_dead`` a row per feature, in order."""


def frames_of(history: History) -> dict[str, pd.DataFrame]:
    """The frames of a history."""
    dead = [
        pd.DataFrame(
            {"phase": phase, "layer": layer, "streak": streak, "measured": history.measured[phase, layer]}
        )
        for (phase, layer), streak in history.dead.items()
    ]
    return {
        "history_windows": history.windows,
        "history_sites": history.sites,
        "history_parameters": history.parameters
        if len(history.parameters)
        else pd.DataFrame(columns=list(COLUMNS["history_parameters"])),
        "history_dead": pd.concat(dead, ignore_index=True)
        if dead
        else pd.DataFrame(columns=list(COLUMNS["history_dead"])),
    }


def history_of_frames(frames: dict[str, pd.DataFrame]) -> History:
    """The history that these frames hold."""
    sites = frames["history_sites"]
    dead: dict[tuple[str, str], Any] = {}
    measured: dict[tuple[str, str], int] = {}
    for (phase, layer), rows in frames["history_dead"].groupby(["phase", "layer"], sort=False):
        dead[str(phase), str(layer)] = rows["streak"].to_numpy(np.int64)
        measured[str(phase), str(layer)] = int(rows["measured"].iloc[0])
    # As a history of windows has them: numpy's own types, which are joined in one step.
    plain = {name: sites[name].to_numpy(bool if name == "trains" else None) for name in sites}
    return History(
        frames["history_windows"], pd.DataFrame(plain), frames["history_parameters"], dead, measured
    )


def wrong_frames(frames: dict[str, pd.DataFrame], count: int) -> str:
    """What of a history does not belong together, or ""."""
    if sorted(frames["history_windows"]["window"]) != list(range(count)):
        return "its history is of other windows"
    for name in ("history_sites", "history_parameters"):
        numbers = frames[name]["window"]
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < count:
            return f"{name} of unknown windows"
    if any(frame[name].isna().any() for frame in frames.values() for name in {"phase", "layer"} & {*frame}):
        return "names are missing in its history"
    if frames["history_sites"][["site", "kind", "trains"]].isna().to_numpy().any():
        return "texts are missing in its history"
    return ""
