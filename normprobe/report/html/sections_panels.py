"""Which norms get a before/after panel, and what its closed heading says."""

from __future__ import annotations

import pandas as pd

from normprobe.errors import NormprobeError
from normprobe.report.layer_summary import LINEAR

MOST_PANELS = 64
CHOICES = (None, "all", "files")


def check_choice(panels: str | None) -> None:
    """Raise unless `panels` is None, "all" or "files".

    Raises:
        NormprobeError: it is something else.
    """
    if panels not in CHOICES:
        raise NormprobeError(
            f"panels={panels!r} is not a choice: pass None (at most {MOST_PANELS} norms), "
            "'all' (a panel for every norm) or 'files' (also a PNG of each panel)."
        )


def panel_layers(summary: pd.DataFrame, ranked: list[str], panels: str | None) -> list[str]:
    """Choose the norms that get a panel, in order of execution.

    Args:
        summary: the frame of `summarize`.
        ranked: layers in the order in which they stand out, those in findings first.
        panels: "all" for every norm; otherwise at most 64.
    """
    norms = [str(layer) for layer in summary.index[summary["kind"] != LINEAR]]
    if panels == "all" or len(norms) <= MOST_PANELS:
        return norms
    inside = set(norms)
    wanted = [norms[0], norms[-1], *(layer for layer in ranked if layer in inside)]
    chosen = set(list(dict.fromkeys(wanted))[:MOST_PANELS])
    return [layer for layer in norms if layer in chosen]
