"""Base frames of experts: built, merged, and refused where they do not belong together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from normprobe.errors import RecordingError
from normprobe.kernels.moments import Moments
from normprobe.tables.expert_frames import ExpertFrames, expert_frames, merge_experts
from normprobe.tables.expert_tables import expert_feature_table, expert_table
from normprobe.tables.records import ExpertRecord, ExpertSiteRecord
from normprobe.tables.validate import check_tables
from tests.helpers.recordings import made

RNG = np.random.default_rng(0)
NO_ROUTERS = pd.DataFrame({"layer": ["gate"], "router_of": ["moe"]})


def moments(rows: list[np.ndarray]) -> Moments:
    """Moments of each feature, one expert after the other."""
    parts = [
        Moments(
            np.full(own.shape[1], len(own)),
            *((own.mean(0), ((own - own.mean(0)) ** 2).sum(0)) if len(own) else (np.zeros(3), np.zeros(3))),
            own.min(0, initial=np.inf),
            own.max(0, initial=-np.inf),
            np.abs(own).sum(0),
            (own == 0).sum(0),
            np.zeros(own.shape[1], int),
        )
        for own in rows
    ]
    return Moments(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def record(rows: list[np.ndarray], layer: str = "moe", depth: int = 0) -> ExpertRecord:
    counts = np.array([len(own) for own in rows])
    site = ExpertSiteRecord("input", 3, counts, moments(rows))
    return ExpertRecord(layer, depth, len(rows), counts * 0.5, counts, (site,))


def rows(*counts: int) -> list[np.ndarray]:
    return [RNG.normal(size=(count, 3)) for count in counts]


def test_tables_follow_from_the_moments() -> None:
    given = rows(6, 2, 0)
    table = expert_table(expert_frames([record(given)]), NO_ROUTERS)
    assert table["tokens"].tolist() == [6, 2, 0]
    np.testing.assert_allclose(table["share"], [0.75, 0.25, 0.0])
    np.testing.assert_allclose(table["weight"], [0.5, 0.5, np.nan])
    np.testing.assert_allclose(table["variance"][:2], [own.var() for own in given[:2]], rtol=1e-12)
    assert table.loc[2, ["mean", "variance", "min", "abs_mean"]].isna().all()
    assert table["router"].unique().tolist() == ["gate"]
    np.testing.assert_allclose(table["entropy"], -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    np.testing.assert_allclose(table["entropy_max"], np.log(3))
    features = expert_feature_table(expert_frames([record(given)]))
    assert features["feature"].tolist() == [0, 1, 2] * 3
    np.testing.assert_allclose(features["mean"][:3], given[0].mean(0), rtol=1e-12)


def test_merging_is_exact_in_any_order_and_an_expert_may_be_in_one_part_alone() -> None:
    a, b, c = rows(3, 0, 5), rows(1, 4, 0), rows(2, 2, 2)
    whole = expert_frames([record([np.concatenate(of) for of in zip(a, b, c, strict=True)])])
    parts = [expert_frames([record(of)]) for of in (a, b, c)]
    for order in (parts, parts[::-1], [merge_experts(parts[:2]), parts[2], ExpertFrames.none()]):
        merged = merge_experts(order)
        pd.testing.assert_frame_equal(merged.places, whole.places)
        pd.testing.assert_frame_equal(merged.moments, whole.moments, rtol=1e-12)
    assert merge_experts([ExpertFrames.none()]).places.empty


def test_layers_of_several_parts_stand_in_order_of_execution() -> None:
    parts = [
        expert_frames([record(rows(1, 1), "b", 1), record(rows(2, 2), "a", 0)]),
        expert_frames([record(rows(1, 1), "c", 0)]),
    ]
    assert merge_experts(parts).places["layer"].tolist() == ["a", "a", "c", "c", "b", "b"]


def test_other_widths_are_other_models() -> None:
    narrow = expert_frames([record(rows(2, 2))])
    wide = narrow._replace(places=narrow.places.assign(n_features=4))
    with pytest.raises(RecordingError, match="'moe' have different numbers of features"):
        merge_experts([narrow, wide])


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda f: {"expert_moments": f.moments.iloc[:-1]}, "other features of experts"),
        (lambda f: {"expert_places": f.places.assign(site="middle")}, "unknown site of experts 'middle'"),
        (lambda f: {"expert_places": f.places.assign(expert=0)}, "an expert occurs twice"),
        (lambda f: {"expert_places": f.places.assign(rows=-1)}, "negative rows in expert_places"),
    ],
)
def test_frames_that_do_not_belong_together_are_refused(change: Any, wrong: str) -> None:
    frames = expert_frames([record(rows(2, 2))])
    tables = replace(made("a", RNG.normal(size=(8, 3))), **frames.by_name)
    assert check_tables(tables) == ""
    assert wrong in check_tables(replace(tables, **change(frames)))
