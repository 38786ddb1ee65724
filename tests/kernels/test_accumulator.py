"""What a site adds up over many tensors, whatever it met before, against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from normprobe.kernels import dispatch
from normprobe.kernels.choice import Choice
from tests.helpers.oracle import RELATIVE, two_pass, worst

pytestmark = pytest.mark.skipif(
    dispatch.compiled() is None, reason="the C kernel is not built here, or not asked for"
)

WIDTHS = (1, 5, 16, 70, 520, 1030)
DTYPES = (torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)


def batch(rng: np.random.Generator, width: int) -> Tensor:
    """Rows unlike those of other batches: another scale, another mean, drifts, outliers, constants, NaN."""
    rows = int(rng.choice([5, 63, 64, 65, 130, 200, 255, 256, 257, 520]))
    numbers = rng.standard_normal((rows, width)) * rng.choice([1e-3, 1.0, 1.0, 50.0])
    kind = rng.integers(7)
    if kind == 1:
        numbers += rng.choice([-30.0, 3e2, 1e3]) * rng.standard_normal(width)
    elif kind == 2:
        numbers[rng.integers(rows)] *= 1e4
    elif kind == 3:
        numbers[rows // 2 :] += 100
    elif kind == 4:
        numbers[:, :: int(rng.integers(1, 4))] = rng.choice([0.0, 0.1, -7.3])
    elif kind == 5:
        numbers[rng.random(numbers.shape) < 0.02] = rng.choice([np.nan, np.inf, -np.inf, 0.0])
    elif kind == 6:
        numbers[:] = numbers[:, :1]
    return torch.from_numpy(numbers).to(DTYPES[rng.integers(len(DTYPES))])


class TestAddedUp:
    """A state on its own from its second tensor on, or beside another that reads the same tensors."""

    @pytest.mark.parametrize("seed", range(40))
    @pytest.mark.parametrize("threads", [1, 3])
    @pytest.mark.parametrize("readers", [1, 2])
    def test_every_batch_after_every_other(self, seed: int, threads: int, readers: int) -> None:
        from normprobe.kernels.cpu import AccumulatorState, RecentMoments, compiled_choice

        rng = np.random.default_rng(seed)
        width = int(rng.choice(WIDTHS))
        states = [AccumulatorState(width, -1, 1, -1, False) for _ in range(readers)]
        totals, slots, low, high, sound = [], 0, np.inf, -np.inf, True
        for _ in range(6):
            values = batch(rng, width)
            rows, memory = len(values), RecentMoments()
            keep = np.flatnonzero(rng.random(rows) < 0.2)
            plan = compiled_choice(Choice(rows, 1, None, keep, np.arange(slots, slots + len(keep))))
            slots += len(keep)
            exact = values.to(torch.float64).numpy()
            finite = exact[np.isfinite(exact)]
            totals.append((exact, exact[keep]))
            for state in states:
                news = state.observe(values, plan, None, memory, threads, 0)
                held = news or (None, None, None)
                assert (held[0] is not None) == (finite.min(initial=np.inf) < low)
                assert (held[1] is not None) == (finite.max(initial=-np.inf) > high)
                wrong = np.argwhere(~np.isfinite(exact))
                assert (held[2] is not None) == (sound and len(wrong) > 0)
                if held[2] is not None:
                    assert held[2][1:] == tuple(wrong[0])
                for found, extreme in zip(
                    held[:2], (finite.min(initial=np.inf), finite.max(initial=-np.inf)), strict=True
                ):
                    if found is not None:
                        first = np.flatnonzero((exact == extreme).any(1))[0]
                        assert found == (extreme, first, np.flatnonzero(exact[first] == extreme)[0])
            low, high = min(low, finite.min(initial=np.inf)), max(high, finite.max(initial=-np.inf))
            sound = sound and bool(np.isfinite(exact).all())
        for state in states:
            columns, kept, within_sum, within_count, *_ = state.fields(slots, 0)
            self.check(
                np.frombuffer(columns).reshape(-1, width),
                two_pass(np.concatenate([rows for rows, _ in totals])),
            )
            every = two_pass(np.concatenate([rows for rows, _ in totals]), 1)
            self.check(
                np.frombuffer(kept).reshape(slots, 5).T,
                two_pass(np.concatenate([rows for _, rows in totals]), 1),
            )
            assert within_count == (every["count"] > 0).sum()
            np.testing.assert_allclose(within_sum, np.nansum(every["variance"]), rtol=RELATIVE)

    def test_moments_of_one_are_no_use_to_another_with_fewer_numbers(self) -> None:
        """Far from the mean of many numbers a sum loses digits that these do not need, but few numbers do."""
        from normprobe.kernels.cpu import AccumulatorState, RecentMoments, compiled_choice

        torch.manual_seed(0)
        first, far = torch.randn(2000, 16), torch.randn(200, 16) + 3e4 * torch.randn(16)
        old, twin, young = (AccumulatorState(16, -1, 1, -1, False) for _ in range(3))
        for values, states in ((first, [old, twin]), (far, [old, young])):
            plan, memory = compiled_choice(Choice(len(values), 1)), RecentMoments()
            for state in states:
                state.observe(values, plan, None, memory, 1, 0)
        for state, totals in ((old, [first, far]), (young, [far])):
            columns = np.frombuffer(state.fields(0, 0)[0]).reshape(-1, 16)
            self.check(columns, two_pass(torch.cat(totals).to(torch.float64).numpy()))

    @pytest.mark.parametrize("seed", range(20))
    @pytest.mark.parametrize("inner", [3, 200])
    def test_channels(self, seed: int, inner: int) -> None:
        """Planes (examples, channels, positions), of which an example's numbers are one sample."""
        from normprobe.kernels.cpu import AccumulatorState, RecentMoments, compiled_choice

        rng = np.random.default_rng(seed)
        width = int(rng.choice([1, 4, 70]))
        state, totals, slots = AccumulatorState(width, 1, 1, -1, True), [], 0
        for _ in range(4):
            values = batch(rng, width)[:60].repeat_interleave(inner, 0)
            values = values + 0.25 * torch.arange(len(values), dtype=values.dtype)[:, None] % 7
            values = values.reshape(-1, inner, width).transpose(1, 2).contiguous()
            examples = len(values)
            plan = compiled_choice(
                Choice(examples, inner, None, np.arange(examples), np.arange(slots, slots + examples))
            )
            slots += examples
            state.observe(values, plan, None, RecentMoments(), 3, 0)
            totals.append(values.to(torch.float64).numpy())
        columns, kept, *_ = state.fields(slots, 0)
        rows = np.concatenate([part.transpose(0, 2, 1).reshape(-1, width) for part in totals])
        self.check(np.frombuffer(columns).reshape(-1, width), two_pass(rows))
        examples_of = np.concatenate([part.reshape(len(part), -1) for part in totals])
        self.check(np.frombuffer(kept).reshape(slots, 5).T, two_pass(examples_of, 1))

    def check(self, found: np.ndarray, expected: dict[str, np.ndarray]) -> None:
        """Counts, means, variances and extremes: those first in `found`."""
        count, mean, m2, low, high = found[:5]
        assert (count == expected["count"]).all()
        some = count > 0
        means, variances = (np.where(some, field, np.nan) for field in (mean, m2 / np.maximum(count, 1)))
        assert worst(means, variances, expected["mean"], expected["variance"]) <= RELATIVE
        assert (low[some] == expected["min"][some]).all()
        assert (high[some] == expected["max"][some]).all()
