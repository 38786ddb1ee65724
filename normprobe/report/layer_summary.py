"""One row per layer: the numbers by which table, panels and terminal show and rank layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normprobe.tables.measures.common import at_site
from normprobe.tables.measures.features import feature_measures
from normprobe.tables.measures.layers import layer_measures
from normprobe.tables.measures.samples import sample_spreads
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

LINEAR = "linear"


def summarize(tables: Tables) -> pd.DataFrame:
    """Put what both sites of a layer say into one row.

    Args:
        tables: the tables of a recording.

    Returns:
        A frame indexed by layer, in order of first execution, with kind, type, depth, calls, n_features
        (of the output), variance_in and variance_out (population variance of all values), max_in and
        max_out (largest |value|), peak (the feature of the input that holds it), ratio (largest |value|
        of the input ÷ that of its median feature), zeros (share of zeros in the output), nonfinite_in
        and nonfinite_out (counts), spread_in and spread_out (95th ÷ 5th percentile of the samples'
        variances; NaN with fewer than two samples).
    """
    layers, features, spreads = (
        layer_measures(tables),
        feature_measures(tables),
        sample_spreads(tables)["ratio"],
    )
    before, after = at_site(layers, INPUT), at_site(layers, OUTPUT)
    known = pd.concat([after, before])  # a layer may have been measured at one of them alone
    known = known[~known.index.duplicated()]
    rows = known[["kind", "type", "depth", "calls", "n_features"]].copy()
    rows["variance_in"] = before["variance"]
    rows["variance_out"] = after["variance"]
    rows["max_in"] = before["abs_max"]
    rows["max_out"] = after["abs_max"]
    rows["peak"] = before["abs_max_feature"]
    rows["ratio"] = at_site(features, INPUT)["feature_ratio"]
    rows["zeros"] = after["zero_fraction"]
    rows["nonfinite_in"] = before["nonfinite"]
    rows["nonfinite_out"] = after["nonfinite"]
    rows["spread_in"] = at_site(spreads, INPUT)
    rows["spread_out"] = at_site(spreads, OUTPUT)
    return rows.sort_values("depth", kind="stable")


def standing_out(summary: pd.DataFrame, named: list[str]) -> list[str]:
    """Order layers by how much they deserve a look.

    Args:
        summary: the frame of `summarize`.
        named: layers that findings name; they come first.

    Returns:
        Every layer once: the named ones, then the others, each group by falling ÷ median feature, ties
        in order of execution.
    """
    first = summary.index.isin(named)
    order = np.lexsort((summary["depth"], -summary["ratio"].fillna(-np.inf), ~first))
    return [str(summary.index[i]) for i in order]


def named_layers(findings: pd.DataFrame) -> list[str]:
    """List the layers that findings name as the worst or as the writer, first mention first."""
    columns = [findings["layer"], findings["written_by"]]
    pairs = zip(*(column.fillna("") for column in columns), strict=True)
    return list(dict.fromkeys(str(name) for pair in pairs for name in pair if name))
