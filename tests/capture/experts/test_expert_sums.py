"""Sums of experts' rows, on the CPU and as an accelerator adds them up, against float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normprobe.capture.experts.expert_sums import DeviceSums, HostSums
from normprobe.kernels.moments import MOMENT_FIELDS

SUMS = [lambda: HostSums(3, 5), lambda: DeviceSums(3, 5, torch.device("cpu"))]


@pytest.mark.parametrize("make", SUMS)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_moments_are_those_of_two_passes(make: object, offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    sums, given = make(), []  # type: ignore[operator]
    for size in (40, 0, 1, 300):
        rows = torch.randn(size, 5, generator=generator) + offset
        expert = torch.randint(-1, 5, (size,), generator=generator)
        expert[expert == 2] = 1  # none goes to the last
        if size == 40:
            rows[3, 2], rows[5, 0], rows[7, 1] = torch.nan, torch.inf, 0.0
            expert[[3, 5, 7]] = 0
        sums.add(rows, expert)
        given.append((rows.double().numpy(), expert.numpy()))
    moments, counts = sums.totals()
    rows, expert = (np.concatenate(each) for each in zip(*given, strict=True))
    assert counts.tolist() == [int((expert == e).sum()) for e in range(3)]
    fields = {name: getattr(moments, name).reshape(3, 5) for name in MOMENT_FIELDS}
    for e in range(3):
        for feature in range(5):
            own = rows[expert == e, feature]
            finite = own[np.isfinite(own)]
            assert fields["count"][e, feature] == len(finite)
            assert fields["nonfinite"][e, feature] == len(own) - len(finite)
            assert fields["zeros"][e, feature] == (finite == 0).sum()
            if not len(finite):
                assert fields["minimum"][e, feature] == np.inf
                continue
            scale = finite.std()
            np.testing.assert_allclose(fields["mean"][e, feature], finite.mean(), rtol=0, atol=1e-6 * scale)
            np.testing.assert_allclose(fields["m2"][e, feature] / len(finite), finite.var(), rtol=1e-6)
            np.testing.assert_allclose(fields["minimum"][e, feature], finite.min())
            np.testing.assert_allclose(fields["maximum"][e, feature], finite.max())
            np.testing.assert_allclose(fields["abs_sum"][e, feature], np.abs(finite).sum(), rtol=1e-6)
    assert sums.nbytes() > 0


def test_rows_are_added_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from normprobe.capture.experts import expert_sums

    rows, expert = torch.randn(50, 5), torch.randint(0, 3, (50,))
    whole, blocks = DeviceSums(3, 5, torch.device("cpu")), DeviceSums(3, 5, torch.device("cpu"))
    whole.add(rows, expert)
    monkeypatch.setattr(expert_sums, "_BLOCK", 35)
    blocks.add(rows, expert)
    for name in MOMENT_FIELDS:
        a, b = getattr(whole.totals()[0], name), getattr(blocks.totals()[0], name)
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
