"""One row per layer: the numbers by which table, panels and terminal show and rank layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normprobe.tables.measures.common import at_site
from normprobe.tables.measures.features import feature_measures
from normprobe.tables.measures.layers import layer_measures
from normprobe.tables.measures.samples import sample_spreads
from normprobe.vocabulary import INPUT, OUTPUT, in_order

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

LINEAR = "linear"


def further_sites(layers: pd.DataFrame) -> tuple[str, ...]:
    """The sites of a frame besides input and output, in order."""
    return in_order(site for site in set(layers["site"]) if site not in (INPUT, OUTPUT))


def summarize(tables: Tables) -> pd.DataFrame:
    """Put what the sites of a layer say into one row.

    Args:
        tables: the tables of a recording.

    Returns:
        A frame indexed by layer, in order of first execution, with kind, type, depth, calls, n_features
        (of the output), variance_in and variance_out (population variance of all values), max_in and
        max_out (largest |value|), peak (the feature of the input that holds it), ratio (largest |value|
        of the input ÷ that of its median feature), zeros (share of zeros in the output), nonfinite (count
        over all sites), spread_in and spread_out (95th ÷ 5th percentile of the samples' variances; NaN with
        fewer than two samples). Of a further site S, variance_S and max_S. What was measured at no such site
        is NaN.
    """
    layers, spreads = layer_measures(tables), sample_spreads(tables)["ratio"]
    before, after = at_site(layers, INPUT), at_site(layers, OUTPUT)
    rows = _one_each(tables.layers)[["kind", "type", "depth", "calls", "n_features"]].copy()
    rows["variance_in"], rows["variance_out"] = before["variance"], after["variance"]
    rows["max_in"], rows["max_out"] = before["abs_max"], after["abs_max"]
    rows["peak"] = before["abs_max_feature"]
    rows["ratio"] = at_site(feature_measures(tables), INPUT)["feature_ratio"]
    rows["zeros"] = after["zero_fraction"]
    rows["nonfinite"] = tables.layers.groupby("layer")["nonfinite"].sum()
    rows["spread_in"], rows["spread_out"] = at_site(spreads, INPUT), at_site(spreads, OUTPUT)
    for name in further_sites(tables.layers):
        measured = at_site(layers, name)
        rows[f"variance_{name}"], rows[f"max_{name}"] = measured["variance"], measured["abs_max"]
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
    # The last key counts first; a ratio that is missing becomes the smallest.
    order = np.lexsort((summary["depth"], -summary["ratio"].fillna(-np.inf), ~first))
    return [str(summary.index[i]) for i in order]


def named_layers(findings: pd.DataFrame) -> list[str]:
    """List the layers that findings name as the worst or as the writer, first mention first."""
    columns = [findings["layer"], findings["written_by"]]
    pairs = zip(*(column.fillna("") for column in columns), strict=True)
    # The writer beside the layer that it writes to: to mend one is to look at both.
    return list(dict.fromkeys(str(name) for pair in pairs for name in pair if name))


def _one_each(layers: pd.DataFrame) -> pd.DataFrame:
    """A row per layer: of its output, where that was measured."""
    order = np.argsort((layers["site"] != OUTPUT).to_numpy(), kind="stable")
    return layers.iloc[order].drop_duplicates("layer").set_index("layer")
