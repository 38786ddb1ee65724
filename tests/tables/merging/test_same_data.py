"""Parts on the same data: copies count once, shares are put side by side or add up, all else is refused."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import normprobe
from normprobe import Recording, RecordingError
from normprobe.cli import main
from normprobe.tables.merging.same_data import data_of, grouped_by_data
from tests.tables.merging.test_checks import net, record

BATCHES = [torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]


class Up(nn.Module):
    """A Linear of 8 to 32 features, or the rows of one process."""

    def __init__(self, of: int = 1, rank: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(8, 32)
        rows = slice(rank * 32 // of, (rank + 1) * 32 // of)
        bias = torch.arange(32.0) * 10
        self.up.weight, self.up.bias = nn.Parameter(self.up.weight[rows]), nn.Parameter(bias[rows])

    def forward(self, x: Tensor) -> Any:
        return self.up(x)


def placed(recording: Recording, site: str, kind: str, first: Any = pd.NA, whole: Any = pd.NA) -> Recording:
    """The recording as a hook on a sharded tensor makes it."""
    tables = recording.tables
    here = tables.sites["site"] == site
    sites = tables.sites.assign(
        placement=tables.sites["placement"].where(~here, kind),
        first_feature=tables.sites["first_feature"].where(~here, first),
        whole_features=tables.sites["whole_features"].where(~here, whole),
    )
    return Recording(replace(tables, sites=sites.astype(tables.sites.dtypes)))


def shards(of: int = 2, batches: Any = BATCHES, name: str = "rank", **options: Any) -> list[Recording]:
    recorded = [
        normprobe.record(Up(of, rank), batches, part=f"{name}{rank}", **options) for rank in range(of)
    ]
    return [placed(r, "output", "features", rank * 32 // of, 32) for rank, r in enumerate(recorded)]


def assert_moments(merged: Recording, expected: Recording) -> None:
    left, right = merged.features, expected.features
    pd.testing.assert_frame_equal(left, right, rtol=1e-12, atol=1e-12)
    columns = ["n_samples", "n_features", "calls", "min", "max", "min_feature", "max_feature"]
    pd.testing.assert_frame_equal(merged.layers[columns], expected.layers[columns])


class TestShards:
    def test_of_features_are_put_side_by_side(self, tmp_path: Path) -> None:
        merged = normprobe.merge(*reversed(shards(kurtosis=True, quantiles=True)))
        whole = normprobe.record(Up(), BATCHES, part="w", kurtosis=True, quantiles=True)
        assert_moments(merged, whole)
        output = merged.layers.set_index("site").loc["output"]
        assert (output["n_samples"], output["n_features"]) == (72, 32)
        assert merged.meta["examples"] == 12
        assert merged.meta["parts"] == ["rank0", "rank1"]
        assert merged.ledger["calls"].tolist() == [4]
        np.testing.assert_array_equal(
            merged.tables.histogram("up", "output")[0], whole.tables.histogram("up", "output")[0]
        )
        assert np.isnan(output["within_sample_variance"])
        assert normprobe.load(merged.save(tmp_path / "m")).features.equals(merged.features)

    def test_show_features_as_the_whole_numbers_them(self) -> None:
        share = shards()[1]
        assert share.features.query("site == 'output'")["feature"].tolist() == list(range(16, 32))
        assert share.layers.query("site == 'output'")["max_feature"].item() >= 16

    def test_of_samples_kept_by_all_are_joined(self) -> None:
        merged = normprobe.merge(*shards())
        whole = normprobe.record(Up(), BATCHES, part="w").samples.drop(columns="part")
        key = ["site", "example", "position"]
        both = [
            frame.sort_values(key).reset_index(drop=True)
            for frame in (merged.samples.drop(columns="part"), whole)
        ]
        pd.testing.assert_frame_equal(*both, rtol=1e-6)
        # Named parts keep raw rows of other samples; unnamed ones of the same.
        alike = [
            placed(normprobe.record(Up(2, rank), BATCHES), "output", "features", rank * 16, 32)
            for rank in range(2)
        ]
        one = normprobe.record(Up(), BATCHES)
        np.testing.assert_allclose(normprobe.merge(*alike).values("up", "output"), one.values("up", "output"))

    def test_of_parts_on_other_data_merge_in_both_orders(self) -> None:
        first, second = shards(batches=BATCHES[:2], name="a"), shards(batches=BATCHES[2:], name="b")
        whole = normprobe.record(Up(), BATCHES, part="w")
        once = normprobe.merge(*first, *second)
        grouped = normprobe.merge(normprobe.merge(*second), normprobe.merge(*first))
        across = normprobe.merge(*(normprobe.merge(*pair) for pair in zip(first, second, strict=True)))
        for merged in (once, grouped, across):
            columns = ["layer", "site", "feature", "mean", "variance", "min", "max", "count"]
            pd.testing.assert_frame_equal(merged.features[columns], whole.features[columns], rtol=1e-6)
            assert merged.layers["n_samples"].tolist() == [72, 72]
        assert once.features.equals(grouped.features)

    def test_that_follow_one_another_merge_in_any_grouping(self) -> None:
        a, b, c, d = shards(of=4)
        whole = normprobe.merge(a, b, c, d)
        left = normprobe.merge(a, b)
        assert left.tables.sites["whole_features"].tolist() == [pd.NA, 32]
        assert normprobe.merge(normprobe.merge(c, d), left).features.equals(whole.features)
        with pytest.raises(RecordingError, match=r"0 to 7 of 32, 16 to 23 of 32.*all at once"):
            normprobe.merge(a, c)

    def test_copies_of_a_shard_count_once(self) -> None:
        merged = normprobe.merge(*shards(), *shards(name="other"))
        assert_moments(merged, normprobe.record(Up(), BATCHES, part="w"))
        assert merged.meta["replicas"] == ["rank0", "rank1"]

    def test_of_samples_add_up_and_their_forwards_count_once(self) -> None:
        halves = [normprobe.record(Up(), [x[:, part] for x in BATCHES], part=f"r{i}")
                  for i, part in enumerate((slice(3), slice(3, None)))]  # fmt: skip
        # Both saw one batch, of which each layer has some positions.
        digest = halves[0].meta["digests"]["r0"]
        shares = [
            Recording(replace(half.tables, facts={**half.tables.facts, "digests": {f"r{i}": digest}}))
            for i, half in enumerate(halves)
        ]
        shares = [placed(placed(share, "input", "samples"), "output", "samples") for share in shares]
        merged = normprobe.merge(*shares)
        assert merged.layers["n_samples"].tolist() == [72, 72]
        assert merged.layers["calls"].tolist() == [4, 4]
        assert merged.meta["examples"] == 12
        whole = normprobe.record(Up(), BATCHES, part="w").features
        np.testing.assert_allclose(merged.features["mean"], whole["mean"], rtol=1e-6, atol=1e-6)

    def test_without_the_same_data_are_refused(self) -> None:
        parts = [shards(batches=BATCHES[:2])[0], shards(batches=BATCHES[2:])[1]]
        with pytest.raises(RecordingError, match="not of the same data"):
            normprobe.merge(*parts)

    @pytest.mark.parametrize("batches", [(BATCHES, BATCHES), (BATCHES[:2], BATCHES[2:])])
    def test_sums_that_were_never_added_up_are_refused(self, batches: Any) -> None:
        parts = [
            placed(normprobe.record(Up(2, i), own, part=f"{i}"), "output", "partial")
            for i, own in enumerate(batches)
        ]
        with pytest.raises(RecordingError, match="never added up over the processes"):
            normprobe.merge(*parts)

    def test_that_no_placement_explains_are_refused(self) -> None:
        parts = [normprobe.record(Up(2, rank), BATCHES, part=f"rank{rank}") for rank in range(2)]
        with pytest.raises(
            RecordingError, match=r"'rank0' and 'rank1' saw the same data .*'up' at its output"
        ):
            normprobe.merge(*parts)


class TestCopies:
    @pytest.mark.parametrize("parts", [("a", "b"), ("a", "b", "c")])
    def test_count_once_in_any_order(self, parts: tuple[str, ...]) -> None:
        model = net()
        recordings = [record(model, 0, part) for part in parts]
        for order in itertools.permutations(recordings):
            merged = normprobe.merge(*order, record(model, 1))
            assert merged.meta["examples"] == 24
            assert merged.meta["replicas"] == list(parts[1:])
            assert merged.layers["n_samples"].unique().tolist() == [24]
            assert merged.meta["warnings"] == []

    def test_of_a_task_that_was_tried_again_count_once(self) -> None:
        model = net()
        a, b = (normprobe.record(model, [torch.ones(12, 6)]) for _ in range(2))
        assert normprobe.merge(a, b).layers["n_samples"].unique().tolist() == [12]

    def test_are_known_after_merging(self) -> None:
        model = net()
        merged = normprobe.merge(record(model, 0, "a"), record(model, 0, "b"), record(model, 1, "c"))
        for again in (record(model, 0, "d"), normprobe.merge(record(model, 0, "d"), record(model, 1, "e"))):
            found = normprobe.merge(merged, again)
            assert found.features.equals(merged.features)
            assert found.meta["examples"] == 24
        other = normprobe.merge(record(model, 0, "d"), record(model, 2, "e"))
        with pytest.raises(RecordingError, match=r"hold some of the same data.*all at once"):
            normprobe.merge(merged, other)

    def test_that_differ_are_refused_or_the_first_counts(self, tmp_path: Path) -> None:
        a, b = record(net(0), 0, "a"), record(net(1), 0, "b")
        with pytest.raises(RecordingError, match="'a' and 'b' saw the same data"):
            normprobe.merge(b, a)
        with pytest.warns(normprobe.NormprobeWarning, match="weights"):
            merged = normprobe.merge(b, a, on_same_data="count_once")
        assert merged.features.equals(a.features)
        files = [str(r.save(tmp_path / name)) for r, name in ((a, "a"), (b, "b"))]
        arguments = ["merge", *files, "--force", "--out", str(tmp_path / "m")]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 1
        assert "--on-same-data count_once" in done.stderr
        assert CliRunner().invoke(main, [*arguments, "--on-same-data", "count_once"]).exit_code == 0
        assert normprobe.load(tmp_path / "m").meta["examples"] == 12

    def test_the_argument_is_checked(self) -> None:
        with pytest.raises(RecordingError, match="must be 'error' or 'count_once', got 'add'"):
            normprobe.merge(record(net(), 0), on_same_data="add")  # type: ignore[arg-type]

    def test_data_without_a_fingerprint_and_of_no_rows_are_not_the_same(self) -> None:
        tables = [
            replace(record(net(), 0).tables, facts={"parts": ["a"], "digests": digests})
            for digests in ({"a": [3, 0]}, {"b": [3, 0]}, {"c": [0, 5]}, {"d": [0, 5]})
        ]
        assert [data_of(each) for each in tables] == [frozenset()] * 4
        assert len(grouped_by_data(tables)) == 4
