"""No check needs a site, a layer, or a number of the ledger or of a feature that may be missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.findings import COLUMNS, find, series
from normprobe.tables.columns.tables import BASE, OPTIONAL
from normprobe.tables.frames import Tables
from normprobe.vocabulary import INPUT, OUTPUT


class Block(nn.Module):
    """A norm of each kind over channels or features, in a block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(8), nn.Linear(8, 8)
        self.rms, self.group = nn.RMSNorm(8, eps=1e-6), nn.GroupNorm(4, 8)
        self.instance, self.batch = nn.InstanceNorm1d(8, affine=True), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.up(self.norm(x)) + self.rms(x)
        y = x.transpose(1, 2)
        return x + (self.group(y) + self.instance(y) + self.batch(y)).transpose(1, 2)


@cache
def recorded() -> Tables:
    """A network of three such blocks with faults: NaN, stale channels, an odd norm, a dead layer, ..."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.ModuleList(), nn.Linear(8, 3))
    model[2] = nn.Sequential(*(Block() for _ in range(3)))
    with torch.no_grad():
        model[0].bias[:5] = -50.0
        model[2][0].batch.running_var[2] = 1e-6
        model[2][1].rms.weight.mul_(1e-3)
        model[2][2].up.weight[1, 1] = torch.nan
        model[2][1].up.weight.mul_(1e3)
    data = torch.randn(24, 5, 6)
    data[3] *= 1e3
    with torch.no_grad(), normprobe.Probe(model.eval(), part="a") as probe:
        model(data)
        model[2][1].batch.train()
        model(data[:2])
    return probe.recording.tables


def kept(tables: Tables, keep: np.ndarray, ledger: pd.DataFrame | None = None) -> Tables:
    """The tables of some places alone."""
    places = np.flatnonzero(keep)
    widths = tables.sites["n_features"].to_numpy()
    frames = {name: _moved(getattr(tables, name), places) for name in ("sample_moments", "rows")}
    numbers = widths[tables.rows["place"]]
    return replace(
        tables,
        **frames,
        sites=tables.sites[keep].reset_index(drop=True),
        feature_moments=tables.feature_moments[np.repeat(keep, widths)].reset_index(drop=True),
        row_values=tables.row_values[np.repeat(np.isin(tables.rows["place"], places), numbers)],
        ledger_base=tables.ledger_base if ledger is None else ledger,
    )


def _moved(frame: pd.DataFrame, places: np.ndarray) -> pd.DataFrame:
    """What belongs to these places, which are numbered anew."""
    frame = frame[frame["place"].isin(places)]
    return frame.assign(place=np.searchsorted(places, frame["place"])).reset_index(drop=True)


def variants() -> Iterator[tuple[str, Tables]]:
    """The recording without each site of each layer, each layer, each number that may be missing."""
    tables = recorded()
    layer, site = tables.sites["layer"], tables.sites["site"]
    # Of the blocks one is enough, and the layer of another that makes NaN.
    for name in [
        name for name in dict.fromkeys(layer) if not name.startswith(("2.0", "2.2")) or name == "2.2.up"
    ]:
        for which in (INPUT, OUTPUT):
            yield f"no {which} of {name}", kept(tables, ~((layer == name) & (site == which)).to_numpy(bool))
        rest = tables.ledger_base[tables.ledger_base["layer"] != name].reset_index(drop=True)
        yield f"no {name}", kept(tables, (layer != name).to_numpy(bool), rest)
    for name, dtype in BASE["ledger_base"].items():
        if dtype in ("float64", "Int64", "boolean") or name in OPTIONAL["ledger_base"]:
            nothing = pd.array(["" if dtype == "string" else pd.NA] * len(tables.ledger_base))
            column = pd.Series(nothing).astype(dtype if dtype != "float64" else "Float64").astype(dtype)
            yield f"no {name}", replace(tables, ledger_base=tables.ledger_base.assign(**{name: column}))
    for name in ("weight", "bias", "running_mean", "running_var", "seen_mean", "seen_m2"):
        yield f"no {name}", replace(tables, feature_moments=tables.feature_moments.assign(**{name: np.nan}))
    empty = {"rows": tables.rows[:0], "row_values": tables.row_values[:0]}
    yield "no rows", replace(tables, **empty)
    yield "no samples", replace(tables, **empty, sample_moments=tables.sample_moments[:0])
    bare = {key: value for key, value in tables.facts.items() if key in ("parts", "options", "name", "model")}
    yield "few facts", replace(tables, facts=bare)


NAMES = [name for name, _ in variants()]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:divide by zero:RuntimeWarning")
def test_no_check_needs_what_may_be_missing() -> None:
    failed = []
    for name, tables in variants():
        try:
            found = find(tables)
            assert list(found.columns) == list(COLUMNS)
            for row in found.itertuples():
                series(tables, str(row.evidence))
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {error}")
    assert failed == []


def test_there_is_much_to_miss() -> None:
    assert len(NAMES) > 45
    assert len(find(recorded())) >= 8


def test_massive_activations_are_found_where_rows_are_kept_and_no_samples() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.LayerNorm(64)).eval()
    x = torch.randn(64, 8)
    # Not a sample that is wild already: one that a large weight makes so.
    x[:, 0], x[5, 0] = 0, 1
    model[0].weight.data[3, 0] = 1e5
    tables = normprobe.record(model, [x]).tables
    assert set(find(tables, ["massive_activations"])["layer"]) == {"1"}
    none_kept = replace(tables, sample_moments=tables.sample_moments[:0])
    assert set(find(none_kept, ["massive_activations"])["layer"]) == {"1"}
