"""Numbers of rows by layer and site, held against pandas' groups and numpy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normprobe.tables.measures.by_site import BySite, grouped
from tests.helpers.recordings import recorded

KEY = ["layer", "site"]


def frame_of(sizes: list[int], seed: int, *, mixed: bool) -> pd.DataFrame:
    """Groups of these sizes, a fifth of their values missing; in any order if mixed."""
    generator = np.random.default_rng(seed)
    place = np.repeat(np.arange(len(sizes)), sizes)
    value = np.where(generator.random(len(place)) < 0.2, np.nan, generator.integers(-3, 4, len(place)) / 2)
    names = pd.DataFrame(
        {
            "layer": pd.array([f"layer {at // 2}" for at in place], dtype="string"),
            "site": pd.array(["input" if at % 2 else "output" for at in place], dtype="string"),
            "value": value,
        }
    )
    return names.sample(frac=1, random_state=seed).reset_index(drop=True) if mixed else names


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(0, 99), st.booleans())
def test_groups_are_those_of_pandas(sizes: list[int], seed: int, mixed: bool) -> None:
    frame = frame_of(sizes, seed, mixed=mixed)
    sites, groups = grouped(frame), frame.groupby(KEY, sort=False)["value"]
    value = frame["value"].to_numpy()
    expected = {
        "largest": (groups.max(), sites.largest(value)),
        "smallest": (groups.min(), sites.smallest(value)),
        "mean": (groups.mean(), sites.mean(value)),
        "median": (groups.median(), sites.median(value)),
        "p95": (groups.quantile(0.95), sites.quantiles(value, (0.05, 0.95))[1]),
        "lower": (groups.quantile(0.25, "lower"), sites.quantiles(value, (0.25,), how="lower")[0]),
    }
    for name, (theirs, ours) in expected.items():
        assert sites.index.equals(theirs.index), name
        np.testing.assert_allclose(ours, theirs, rtol=1e-13, err_msg=name)
    zero = value == 0
    np.testing.assert_array_equal(sites.number(zero), pd.Series(zero).groupby(sites.codes).sum())
    np.testing.assert_array_equal(sites.of(np.arange(len(sites.index))), sites.codes)
    np.testing.assert_array_equal(sites.at("input"), frame["site"] == "input")
    for layer, site in sites.index:
        here = (frame["layer"] == layer) & (frame["site"] == site)
        np.testing.assert_array_equal(sites.rows(layer, site), np.flatnonzero(here))
        first = sites.first(zero)[sites.index.get_loc((layer, site))]
        assert first == next(iter(np.flatnonzero(here & zero)), -1)
    assert len(sites.rows("layer 0", "elsewhere")) == 0


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(1, 20), st.booleans())
def test_portions_are_all_rows_with_whole_groups(sizes: list[int], size: int, mixed: bool) -> None:
    sites = grouped(frame_of(sizes, 0, mixed=mixed))
    portions = [np.arange(len(sites.codes))[rows] for rows in sites.portions(size)]
    assert sorted(np.concatenate(portions)) == list(range(len(sites.codes)))
    groups = [set(sites.codes[rows]) for rows in portions]
    assert sum(map(len, groups)) == len(sites.index)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(0, 99))
def test_spreads_are_percentiles_of_what_is_known_and_ratios_of_what_is_positive(
    sizes: list[int], seed: int
) -> None:
    frame = frame_of(sizes, seed, mixed=True)
    found = grouped(frame).spreads(frame["value"].to_numpy())
    for key, group in frame.groupby(KEY, sort=False)["value"]:
        known, row = group.dropna().to_numpy(), found.loc[key]
        assert (row["known"], row["zero"]) == (len(known), (known == 0).sum())
        ends = np.percentile(known, [5, 95]) if len(known) > 1 else [np.nan] * 2
        np.testing.assert_allclose(row[["p5", "p95"]].to_numpy(float), ends, rtol=1e-13)
        np.testing.assert_allclose(row["p50"], np.median(known) if len(known) else np.nan)
        positive = known[known > 0]
        low, high = np.percentile(positive, [5, 95]) if len(positive) > 1 else (1.0, np.nan)
        np.testing.assert_allclose(row["ratio"], high / low, rtol=1e-13)


def test_a_part_has_the_groups_that_are_left() -> None:
    sites = grouped(frame_of([2, 3, 1], 0, mixed=False))
    part = sites.part(np.array([5, 1]))
    assert part.index.tolist() == [sites.index[2], sites.index[0]]
    assert part.codes.tolist() == [0, 1]


def test_infinities_are_numbers() -> None:
    sites = BySite(pd.MultiIndex.from_tuples([("a", "input")], names=KEY), np.zeros(4, dtype=np.int64))
    assert sites.median(np.array([1.0, np.inf, np.inf, np.inf]))[0] == np.inf
    assert sites.median(np.array([-np.inf, 1.0, 2.0, np.inf]))[0] == 1.5


@pytest.mark.parametrize("name", ["features", "samples"])
def test_no_row_is_no_group(name: str) -> None:
    sites = grouped(getattr(recorded().tables, name).iloc[:0])
    assert len(sites.index) == 0
    assert len(sites.median(np.empty(0))) == 0
    assert sites.spreads(np.empty(0)).empty
