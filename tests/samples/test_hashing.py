"""Which samples are kept: pinned hashes, the k smallest of all, whatever the batches or layers."""

from __future__ import annotations

import gc

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import normprobe
from normprobe.samples.dealing import Deal, deal_among
from normprobe.samples.hashing import hashes, row_of, seed_of, smallest


def test_a_named_part_has_a_seed_of_its_own_and_a_nameless_one_the_probes() -> None:
    assert seed_of(7, None) == 7
    assert seed_of(0, "rank0") == 3829834428023275440
    assert len({seed_of(seed, part) for seed in (0, 1) for part in ("a", "b", "", "\ud800")}) == 8


def test_processes_of_torch_distributed_keep_what_one_probe_would_have_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = torch.randn(64, 6)

    def of_process(rank: int, size: int) -> normprobe.Recording:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: size)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        recording = normprobe.record(_model(), [data[rank::size][:10], data[rank::size][10:]], samples=8)
        monkeypatch.undo()
        return recording

    alone = normprobe.record(_model(), [data], samples=8)
    for merged in (
        normprobe.merge(*(of_process(rank, 4) for rank in range(4))),
        normprobe.merge(
            *(
                normprobe.record(
                    _model(), [data[rank::2]], samples=8, part=f"{rank}", rank=rank, world_size=2
                )
                for rank in range(2)
            )
        ),
    ):
        for layer, site in (("0", "input"), ("1", "output")):
            assert _identities(merged, layer, site) == _identities(alone, layer, site)
        pd.testing.assert_frame_equal(
            merged.samples.drop(columns=["part", "call"]),
            alone.samples.drop(columns=["part", "call"]),
            rtol=1e-6,
            atol=1e-6,
        )
        held = ["layer", "site", "n_samples", "min_example", "max_example"]
        assert merged.layers[held].equals(alone.layers[held])


@pytest.mark.parametrize(
    ("same", "world", "deal"),
    [
        ([0], 1, (0, 1)),
        ([3], 4, (3, 4)),
        ([2, 3], 4, (1, 2)),
        ([1, 3], 4, (1, 2)),
        ([0, 1, 4, 5], 8, (0, 2)),
        ([2, 3, 6, 7], 8, (1, 2)),
        (range(4), 4, (0, 1)),
        ([1, 2], 4, (1, 4)),  # no grid: another process has no such neighbour
    ],
)
def test_processes_with_the_same_data_have_one_share(
    same: list[int], world: int, deal: tuple[int, int]
) -> None:
    assert deal_among(same, world) == Deal(*deal)
    numbers = np.arange(5)
    assert Deal(*deal).own(Deal(*deal).number(numbers)).tolist() == numbers.tolist()


@pytest.mark.parametrize(
    "given", [{"rank": 1}, {"world_size": 2}, {"rank": 2, "world_size": 2}, {"rank": -1, "world_size": 2}]
)
def test_a_rank_is_one_of_so_many(given: dict[str, int]) -> None:
    with pytest.raises(normprobe.NormprobeError, match=r"world_size|rank"):
        normprobe.Probe(_model(), **given)


IDENTITY = ["example", "position", "repeat"]


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4))


def _identities(recording: normprobe.Recording, layer: str, site: str) -> list[tuple[int, ...]]:
    kept = recording.samples
    kept = kept[(kept["layer"] == layer) & (kept["site"] == site)]
    return [tuple(row) for row in kept[IDENTITY].to_numpy(dtype=int).tolist()]


class TestHashes:
    """Saved recordings rest on these numbers: a change here makes old files incomparable."""

    example = np.array([0, 0, 1, 1, 2**40])
    position = np.array([0, 1, 0, 1, 7])

    @pytest.mark.parametrize(
        ("seed", "expected"),
        [
            (
                0,
                [
                    1279368494785126216,
                    1700482428262628912,
                    2482289063980384216,
                    2533777038635110281,
                    5622927803597936523,
                ],
            ),
            (
                1,
                [
                    6396520470166291297,
                    3903436636966207257,
                    3150992677718134148,
                    4056300111959079666,
                    1747371679897689648,
                ],
            ),
            (
                -1,
                [
                    9079841259257991405,
                    5726209827327192109,
                    4225621362993160426,
                    1819326876216455397,
                    255986831610406025,
                ],
            ),
        ],
    )
    def test_values_are_pinned(self, seed: int, expected: list[int]) -> None:
        assert hashes(seed, self.example, self.position).tolist() == expected

    def test_row_choice_is_pinned(self) -> None:
        rows = np.array([1, 2, 3, 10, 100, 0])
        assert row_of(0, np.arange(6), rows).tolist() == [0, 1, 1, 5, 4, 0]

    def test_fit_a_nullable_int64_column(self) -> None:
        drawn = hashes(3, np.arange(100_000), np.zeros(100_000, np.int64))
        assert drawn.dtype == np.uint64
        assert int(drawn.max()) < 2**63
        assert len(np.unique(drawn)) == len(drawn)

    def test_are_evenly_spread(self) -> None:
        drawn = hashes(0, np.repeat(np.arange(400), 100), np.tile(np.arange(100), 400))
        counts = np.bincount((drawn >> np.uint64(59)).astype(int), minlength=16)
        # Chi-square of 16 cells: above 37.7 once in a thousand.
        assert ((counts - 2500) ** 2 / 2500).sum() < 37.7


@given(st.lists(st.integers(0, 30), max_size=60), st.none() | st.integers(0, 70))
def test_smallest_equals_sorting_everything(values: list[int], k: int | None) -> None:
    drawn = np.array(values, np.uint64)
    assert smallest(drawn, k).tolist() == sorted(range(len(values)), key=lambda i: (values[i], i))[:k]


@settings(max_examples=15)
@given(st.integers(0, 1000), st.lists(st.integers(1, 7), min_size=1, max_size=8), st.integers(1, 40))
def test_kept_samples_are_those_of_sorting_everything(seed: int, sizes: list[int], k: int) -> None:
    probe = normprobe.Probe(_model(), samples=k, seed=seed)
    with probe, torch.no_grad():
        for size in sizes:
            probe.model(torch.randn(size, 3, 6))
    example, position = (grid.ravel() for grid in np.indices((sum(sizes), 3)))
    order = np.argsort(hashes(seed, example, position))[:k]
    expected = [(example[i], position[i], 0) for i in order]
    for layer in ("0", "1", "2"):
        for site in ("input", "output"):
            assert _identities(probe.recording, layer, site) == expected


@pytest.mark.parametrize("sizes", [[12], [1] * 12, [5, 7], [7, 5], [3, 0, 9]])
def test_batch_size_does_not_matter(sizes: list[int]) -> None:
    model, data = _model(), torch.randn(12, 4, 6, generator=torch.Generator().manual_seed(1))
    whole = normprobe.record(model, data, samples=10, values=5)
    parts = normprobe.record(model, list(data.split(sizes)), samples=10, values=5)
    for layer in ("0", "1", "2"):
        for site in ("input", "output"):
            assert _identities(parts, layer, site) == _identities(whole, layer, site)
            assert np.allclose(parts.values(layer, site), whole.values(layer, site), rtol=1e-5, atol=1e-6)
    columns = ["mean", "variance", "min", "max"]
    assert np.allclose(parts.samples[columns], whole.samples[columns], rtol=1e-5, atol=1e-6)


def test_order_of_layers_does_not_matter() -> None:
    class TwoOrders(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.reverse = nn.LayerNorm(6), nn.Linear(6, 6), False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(self.b(x)) if self.reverse else self.b(self.a(x))

    model, data = TwoOrders(), torch.randn(9, 4, 6)
    one = normprobe.record(model, data, samples=7)
    model.reverse = True
    other = normprobe.record(model, data, samples=7)
    assert list(one.samples["layer"].unique()) == ["a", "b"]
    assert list(other.samples["layer"].unique()) == ["b", "a"]
    for layer in ("a", "b"):
        assert _identities(one, layer, "input") == _identities(other, layer, "input")


def test_another_seed_keeps_others_and_the_same_seed_the_same() -> None:
    model, data = _model(), torch.randn(50, 6)
    one, same, other = (normprobe.record(model, data, samples=5, seed=seed) for seed in (0, 0, 1))
    assert _identities(one, "1", "input") == _identities(same, "1", "input")
    assert set(_identities(one, "1", "input")) != set(_identities(other, "1", "input"))


def test_all_keeps_every_sample() -> None:
    model, sizes = _model(), [4, 1, 6]
    batches = [torch.randn(size, 5, 6) for size in sizes]
    recording = normprobe.record(model, batches, samples="all", values=3)
    assert len(recording.samples) == 6 * 11 * 5
    every = {(e, p, 0) for e in range(11) for p in range(5)}
    assert set(_identities(recording, "1", "output")) == every
    assert len(recording.values("1", "output")) == 3
    kept = recording.samples.query("layer == '0' and site == 'input'").set_index(["example", "position"])
    data = torch.cat(batches).double().numpy()
    for example, position in ((0, 0), (4, 3), (10, 4)):
        row = kept.loc[(example, position)]
        assert row["mean"] == pytest.approx(data[example, position].mean())
        assert row["variance"] == pytest.approx(data[example, position].var())


@pytest.mark.parametrize(("samples", "values", "rows"), [(0, 64, 0), (3, 64, 3), (64, 2, 2), (64, 0, 0)])
def test_values_are_rows_of_the_first_kept_samples(samples: int, values: int, rows: int) -> None:
    model, data = _model(), torch.randn(20, 6)
    recording = normprobe.record(model, data, samples=samples, values=values)
    first = [example for example, _, _ in _identities(recording, "1", "input")][:rows]
    if rows:
        expected = model[0](data).detach()[first].double().numpy()
        assert np.allclose(recording.values("1", "input"), expected, atol=1e-6)
    else:
        with pytest.raises(normprobe.NoSamplesError):
            recording.values("1", "input")
    assert len(_identities(recording, "1", "input")) == min(samples, 20)


def test_a_linear_keeps_eight_rows_at_most() -> None:
    recording = normprobe.record(_model(), torch.randn(40, 6), values=20)
    assert recording.values("0", "input").shape == (8, 6)
    assert recording.values("1", "input").shape == (20, 8)


def test_a_channel_layer_keeps_one_seeded_row_of_each_example() -> None:
    model, data = nn.Sequential(nn.BatchNorm2d(3)), torch.randn(30, 3, 4, 5)
    one = normprobe.record(model, list(data.split(7)), samples=10, values=10)
    other = normprobe.record(model, data, samples=10, values=10)
    assert np.array_equal(one.values("0", "input"), other.values("0", "input"))
    pixels = data.permute(0, 2, 3, 1).flatten(1, 2).double().numpy()
    for (example, _, _), row in zip(_identities(one, "0", "input"), one.values("0", "input"), strict=True):
        assert (pixels[example] == row).all(1).any()


def test_memory_is_constant_in_the_number_of_batches() -> None:
    model = _model()
    data = torch.randn(8, 16, 6)

    def held(batches: int) -> int:
        with torch.no_grad(), normprobe.Probe(model, samples=32, values=8) as probe:
            for _ in range(batches):
                model(data)
            gc.collect()
            states = probe._callbacks.states.values()
            sites = [site for state in states for site in state.sites.values()]
            arrays = [
                a
                for s in sites
                for r in (s.counters.samples, s.counters.rows)
                for a in vars(r.identities()).values()
            ]
            arrays += [array for s in sites for array in (s.totals().kept, s.totals().raw)]
            # What views hold on to counts as much as what they show.
            return sum((array if array.base is None else array.base).nbytes for array in arrays)

    assert held(30) == held(3) > 0
