"""Tables, checks, measures and comparisons carry any site beside input and output, and do without any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import normprobe
from normprobe.divergence import differences
from normprobe.errors import NoSamplesError
from normprobe.findings import CHECKS, find, series
from normprobe.tables.frames import Tables
from normprobe.tables.measures.features import feature_measures, feature_spreads, normalized_variances
from normprobe.tables.measures.layers import gain_measures, inputs_and_outputs, layer_measures
from normprobe.tables.measures.running_statistics import running_channels, running_measures
from normprobe.tables.measures.samples import example_measures, sample_measures, sample_spreads
from normprobe.tables.merging.merge import merge_tables
from normprobe.tables.storage import load_tables, save_tables
from normprobe.vocabulary import INPUT, OUTPUT

MEASURES = [
    feature_measures,
    feature_spreads,
    normalized_variances,
    gain_measures,
    inputs_and_outputs,
    layer_measures,
    running_channels,
    running_measures,
    example_measures,
    sample_measures,
    sample_spreads,
]


def recorded(seed: int = 0, part: str = "a") -> Tables:
    """Tables of a small network with faults: a dead layer, a stale BatchNorm, a wild sample, NaN."""
    torch.manual_seed(0)
    dead = nn.Linear(8, 8)
    nn.init.constant_(dead.bias, -50.0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.LayerNorm(8), dead, nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8)
    )  # fmt: skip
    torch.manual_seed(seed)
    data = torch.randn(40, 6)
    data[3] *= 1e3
    with normprobe.Probe(model.eval(), part=part) as probe, torch.no_grad():
        model(data)
        model(torch.where(torch.arange(40)[:, None] == 7, torch.nan, data))
    return probe.recording.tables


def without(tables: Tables, site: str, layers: list[str] | None = None) -> Tables:
    """The tables as if one site of some layers (all by default) had not been measured."""
    sites = tables.sites.reset_index(drop=True)
    gone = (sites["site"] == site) & (sites["layer"].isin(layers) if layers else True)
    return chosen(tables, np.flatnonzero(~gone), list(sites["site"][~gone]))


def with_another(tables: Tables, name: str) -> Tables:
    """The tables with a further site at each layer, equal to its output."""
    sites = list(tables.sites["site"])
    index = [at for at, site in enumerate(sites) for _ in range(2 if site == OUTPUT else 1)]
    first = [at == 0 or index[at] != index[at - 1] for at in range(len(index))]
    return chosen(
        tables, np.array(index), [sites[i] if f else name for i, f in zip(index, first, strict=True)]
    )


def chosen(tables: Tables, places: np.ndarray, names: list[str]) -> Tables:
    """The tables of some places, each under a name of its own."""
    features = np.repeat(np.arange(len(tables.sites)), tables.sites["n_features"])
    kept = [tables.values(*key) if len(tables.rows) else np.empty(0) for key in _keys(tables)]
    return replace(
        tables,
        sites=tables.sites.iloc[places].assign(site=pd.array(names, dtype="string")).reset_index(drop=True),
        feature_moments=_of_places(tables.feature_moments, features, places),
        sample_moments=_moved(tables.sample_moments, places),
        rows=_moved(tables.rows, places),
        row_values=np.concatenate([kept[at].reshape(-1) for at in places] or [np.empty(0)]),
    )


def _keys(tables: Tables) -> list[tuple[str, str]]:
    return list(zip(tables.sites["layer"], tables.sites["site"], strict=True))


def _of_places(frame: pd.DataFrame, place: np.ndarray, places: np.ndarray) -> pd.DataFrame:
    return pd.concat([frame[:0], *(frame[place == at] for at in places)], ignore_index=True)


def _moved(frame: pd.DataFrame, places: np.ndarray) -> pd.DataFrame:
    parts = [frame[frame["place"] == at].assign(place=new) for new, at in enumerate(places)]
    return pd.concat([frame[:0], *parts], ignore_index=True)


TABLES = recorded()
LAYERS = list(dict.fromkeys(TABLES.sites["layer"]))
VARIANTS = {
    "third": with_another(TABLES, "gate"),
    "third without input": without(with_another(TABLES, "gate"), INPUT),
    "third alone": without(without(with_another(TABLES, "gate"), INPUT), OUTPUT),
    "no input": without(TABLES, INPUT),
    "no output": without(TABLES, OUTPUT),
    **{f"no input of {layer}": without(TABLES, INPUT, [layer]) for layer in LAYERS},
    **{f"no output of {layer}": without(TABLES, OUTPUT, [layer]) for layer in LAYERS},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_no_check_measure_or_table_needs_a_site(name: str, tmp_path: Path) -> None:
    tables = VARIANTS[name]
    for measure in MEASURES:
        assert set(measure(tables).reset_index().columns) >= {"layer"}
    for check in CHECKS:
        for row in find(tables, [check]).itertuples():
            shown = series(tables, str(row.evidence))
            assert set(shown["layer"]) <= set(LAYERS)
    again = load_tables(save_tables(tables, tmp_path / "any.normprobe"))
    pd.testing.assert_frame_equal(again.layers, tables.layers)


def test_a_third_site_changes_no_finding() -> None:
    pd.testing.assert_frame_equal(find(VARIANTS["third"]), find(TABLES))


def test_the_checks_find_something_to_lose() -> None:
    assert len(find(TABLES)) >= 4


def test_a_comparison_has_a_row_for_every_site_that_both_have() -> None:
    one, other = with_another(recorded(), "gate"), with_another(recorded(), "gate")
    found = differences(one, other, same_data=True)
    assert list(found.layers["site"][:3]) == [INPUT, OUTPUT, "gate"]
    assert len(found.layers) == 3 * len(LAYERS)
    assert not found.layers["beyond"].any()
    missing = differences(one, TABLES, same_data=True)
    assert set(missing.layers["site"]) == {INPUT, OUTPUT}


def test_a_merge_keeps_every_site_in_order() -> None:
    merged = merge_tables([with_another(recorded(part="a"), "gate"), with_another(recorded(1, "b"), "gate")])
    assert list(merged.sites["site"][:3]) == [INPUT, OUTPUT, "gate"]
    assert (merged.sites.groupby("layer")["site"].size() == 3).all()


def test_values_name_the_sites_of_the_recording() -> None:
    with pytest.raises(NoSamplesError, match="ask for 'input', 'output' or 'gate'"):
        VARIANTS["third"].values(LAYERS[0], "nothing")
    with pytest.raises(NoSamplesError, match="ask for 'input' or 'output'"):
        TABLES.values(LAYERS[0], "gate")
