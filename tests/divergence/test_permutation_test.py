"""Other data: what chance gives is no divergence, at the level stated."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from normprobe import Recording, compare
from tests.helpers.comparison_models import batches, changed, net, record


@cache
def one(seed: int, count: int = 4) -> Recording:
    return record(net(blocks=2), batches(count, 8, seed=seed))


def test_other_data_are_told_apart_from_the_same() -> None:
    comparison = compare(one(1), one(2))
    assert not comparison.meta["same_data"]
    assert comparison.meta["paired_by"] == "no"
    assert (comparison.layers["pairs"] == 0).all()
    assert comparison.layers["sample_difference"].isna().all()
    assert (comparison.layers["error_of"] == "moments").all()
    assert comparison.verdict_code == "within_sampling"


def test_chance_is_no_divergence_and_its_level_holds() -> None:
    """Of 20 comparisons of a model with itself about 20 % name a layer at level 20 %, and none at 1 %."""
    smallest = np.array([compare(one(2 * at), one(2 * at + 1)).layers["likely"].min() for at in range(20)])
    assert (smallest > 0.01).all()
    assert (smallest <= 0.2).sum() <= 9  # more come up once in 400 times if the level holds
    assert 0.2 < np.median(smallest) < 0.8


@pytest.mark.parametrize(
    ("change", "layer"),
    [
        (lambda m: m.layers[1].up.weight.mul_(1.5), "layers.1.up"),
        (lambda m: m.layers[0].first_norm.weight.mul_(1.3), "layers.0.first_norm"),
        (lambda m: m.layers[1].output.bias.add_(1.0), "layers.1.output"),
    ],
)
def test_a_large_fault_is_found_through_other_data(change, layer: str) -> None:  # type: ignore[no-untyped-def]
    twin = changed(net(blocks=2), change)
    comparison = compare(one(1, 16), record(twin, batches(16, 8, seed=2)))
    found = comparison.first_divergence
    assert found is not None
    assert (found.layer, found.site) == (layer, "output")
    assert comparison.verdict_code == "differs"
    assert comparison.meta["examples"] == (128, 128)
    finding = comparison.findings().iloc[0]
    assert (finding["statistic"], finding["threshold"]) == ("probability by chance", 0.01)
    assert finding["value"] <= 0.01


def test_data_of_another_kind_are_said_to_be() -> None:
    other = [3 * batch for batch in batches(4, 8, seed=2)]
    comparison = compare(one(1), record(net(blocks=2), other))
    found = comparison.first_divergence
    assert found is not None
    assert (found.layer, found.site, found.after) == ("layers.0.first_norm", "input", None)


def test_too_few_examples_tell_nothing_and_say_so() -> None:
    few = [record(net(blocks=2), batches(1, 3, seed=seed)) for seed in (1, 2)]
    comparison = compare(*few)
    assert comparison.first_divergence is None
    assert comparison.verdict_code == "too_few_examples"
    assert comparison.meta["examples"] == (3, 3)


def test_rows_of_one_example_count_as_one() -> None:
    """Rows that repeat their example's make a naive standard error far too small."""

    def alike(seed: int) -> list[torch.Tensor]:
        return [batch[:, :1].expand(-1, 5, -1).contiguous() for batch in batches(2, 8, seed=seed)]

    model = net(blocks=2)
    smallest = [
        compare(record(model, alike(2 * at)), record(model, alike(2 * at + 1))).layers["likely"].min()
        for at in range(12)
    ]
    assert min(smallest) > 0.01
    shares = compare(record(model, alike(1)), record(model, alike(2))).layers["features_beyond"]
    assert shares.mean() < 0.1


def test_different_sizes_of_data_are_compared_at_one_rate() -> None:
    """A recording that keeps few of many samples and one that keeps all of few are still exchangeable."""
    model = net(blocks=2)
    large = record(model, batches(20, 8, seed=1), samples=100)
    smallest = [
        compare(large, record(model, batches(2, 8, seed=seed), samples=100)).layers["likely"].min()
        for seed in range(2, 14)
    ]
    assert min(smallest) > 0.01


def test_the_same_answer_every_time() -> None:
    first, second = (compare(one(1), one(2)).layers["likely"] for _ in range(2))
    assert (first == second).all()
