"""The words of the outlier map: caption, one sentence, and the numbers of one norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from normprobe.formatting import format_count, format_number

if TYPE_CHECKING:
    from normprobe.figures.plots.outlier_map import OutlierMap

OUTLIER = 10.0  # times the median feature


def numbers(found: OutlierMap, layer: str) -> str:
    """Return what hovering over a row says."""
    peak = found.worst.loc[layer]
    if pd.isna(peak["feature"]):
        return f"{layer}\nno finite values"
    ratio = found.ratios.loc[layer].max()
    over = int((found.ratios.loc[layer] > OUTLIER).sum())
    return (
        f"{layer}\nlargest |value|: {format_number(peak['worst'])} in feature {int(peak['feature'])}, "
        f"{format_number(ratio)}× the median feature\nfeatures above 10×: {format_count(over)}"
    )


def caption(found: OutlierMap) -> str:
    """Return what to look at, with the numbers filled in."""
    rows = len(found.ratios)
    facts = [
        f"**Feature {feature}** exceeds 10× the median feature in {count} of {format_count(rows, 'norm')}."
        for feature, count in found.columns.head(3).items()
    ]
    if len(found.columns) > 3:
        others = len(found.columns) - 3
        verb = "exceeds" if others == 1 else "exceed"
        facts.append(f"{format_count(others, 'other feature')} {verb} it somewhere.")
    if not facts:
        top = format_number(found.ratios.max().max())
        facts = [f"No feature exceeds 10× the median feature; the largest reaches {top}×."]
    if found.ratios.isna().all(axis=None):
        facts = ["No feature has a finite value above 0 here."]
    ending = (
        "A lone column is an outlier feature; a full row is a layer where many features differ "
        "from the typical one."
    )
    return " ".join(["A column is one feature through all depth.", *facts, ending])


def aria_label(found: OutlierMap) -> str:
    """Return one sentence for those who do not see the map."""
    rows, columns = found.ratios.shape
    text = f"Outlier map of {format_count(rows, 'norm')} and {format_count(columns, 'feature')}:"
    if found.columns.empty:
        return f"{text} no feature exceeds 10 times the median feature."
    feature, count = found.columns.index[0], found.columns.iloc[0]
    return f"{text} feature {feature} exceeds 10 times the median feature in {count} of the norms."
