"""How a format fits, against real casts of the same values."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.errors import NormprobeError, NoSamplesError
from normprobe.recording import Recording
from normprobe.vocabulary import NUMBER_FORMATS
from tests.helpers import number_formats as casts

ROWS, WIDTH = 4096, 128
SCALED = ("fp8_e4m3", "fp8_e5m2", "mxfp8", "nvfp4", "int8")


def data(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(ROWS, WIDTH, generator=generator)
    if name == "heavy tails":
        # Student's t of three degrees of freedom.
        squares = torch.randn(ROWS, WIDTH, 3, generator=generator).square().sum(2)
        return normal / (squares / 3).sqrt()
    channel = torch.arange(WIDTH)
    return {
        "normal": normal,
        "outlier channels": normal * torch.where(channel % 64 == 5, 100.0, 1.0),
        "scales": normal * torch.exp(1.5 * torch.randn(WIDTH, generator=generator)),
        "offsets": normal + channel / 16,
        "relu": normal.relu(),
        "small": normal * 1e-5,
    }[name]


@cache
def recorded(name: str, *, counted: bool = True) -> Recording:
    """A LayerNorm that reads these values."""
    return normprobe.record(nn.LayerNorm(WIDTH), [data(name)], quantiles=counted)


def row(recording: Recording, form: Any) -> pd.Series:
    return recording.fit(form).query("site == 'input'").iloc[0]


@pytest.mark.parametrize("form", NUMBER_FORMATS)
@pytest.mark.parametrize(
    "name", ["normal", "heavy tails", "outlier channels", "scales", "offsets", "small", "relu"]
)
def test_noise_from_counts_is_that_of_a_cast_within_its_error(name: str, form: Any) -> None:
    found = row(recorded(name), form)
    assert found["snr_from"] == "counts"
    real = casts.real(data(name), form)["snr_db"]
    assert found["snr_db"] == pytest.approx(real, abs=found["snr_error_db"])
    assert found["snr_error_db"] < 0.5


def test_the_error_is_large_where_few_values_outweigh_all_others() -> None:
    x = data("normal").clone()
    x[::512, 3] = 1000 * (1 + torch.rand(8, generator=torch.Generator().manual_seed(1)))
    found = row(normprobe.record(nn.LayerNorm(WIDTH), [x], quantiles=True), "fp8_e4m3")
    assert 1 < found["snr_error_db"] < 20
    real = casts.real(x, "fp8_e4m3")["snr_db"]
    assert found["snr_db"] == pytest.approx(real, abs=found["snr_error_db"])


@pytest.mark.parametrize("form", NUMBER_FORMATS)
@pytest.mark.parametrize(
    ("name", "within"),
    [("normal", 1.0), ("outlier channels", 1.0), ("scales", 1.0), ("offsets", 1.0), ("heavy tails", 2.0)],
)
def test_noise_from_features_is_that_of_a_cast(name: str, form: Any, within: float) -> None:
    found = row(recorded(name, counted=False), form)
    assert found["snr_from"] == "features"
    assert found["snr_db"] == pytest.approx(casts.real(data(name), form)["snr_db"], abs=within)


@pytest.mark.parametrize("form", ["fp8_e4m3", "fp8_e5m2", "int8"])
@pytest.mark.parametrize("name", ["normal", "heavy tails", "outlier channels", "scales", "offsets"])
def test_what_scales_of_channels_buy_is_what_they_buy_a_cast(name: str, form: Any) -> None:
    found = row(recorded(name), form)
    assert found["channel_gain_db"] == pytest.approx(casts.real(data(name), form)["channel_gain_db"], abs=1.0)


@pytest.mark.parametrize("form", ["mxfp8", "nvfp4"])
@pytest.mark.parametrize("name", ["normal", "outlier channels", "offsets"])
def test_what_blocks_buy_is_what_they_buy_a_cast(name: str, form: Any) -> None:
    found, real = row(recorded(name), form), casts.real(data(name), form)
    for column in ("static_block_snr_db", "block_snr_db", "block_gain_db"):
        assert found[column] == pytest.approx(real[column], abs=1.0), column
    assert np.isnan(found["channel_gain_db"])


@pytest.mark.parametrize("name", ["normal", "small", "relu"])
@pytest.mark.parametrize("form", ["fp16", "fp8_e4m3", "fp8_e5m2"])
def test_what_a_cast_loses_of_small_values_is_counted(name: str, form: Any) -> None:
    x, found = data(name).double(), row(recorded(name), form)
    limits = torch.finfo(casts.DTYPES[form])
    small = ((x != 0) & (x.abs() < limits.smallest_normal)).double().mean()
    lost = ((x != 0) & (casts.cast(x, form) == 0)).double().mean()
    # Both limits are edges of bins, so that nothing is estimated.
    assert found["below_normal"] == pytest.approx(float(small), abs=1e-12)
    assert found["flushed"] == pytest.approx(float(lost), abs=1e-12)
    assert not found["overflows"]
    assert found["overflow_share"] == 0
    assert found["headroom"] == pytest.approx(np.log2(limits.max / float(x.abs().max())))


def test_shares_under_a_scale_are_those_of_a_cast() -> None:
    x = data("outlier channels").double()
    found = row(recorded("outlier channels"), "int8")
    held = casts.per_tensor(x, "int8")
    lost = float(((x != 0) & (held == 0)).double().mean())
    assert lost > 0.1
    assert found["scaled_flushed"] == pytest.approx(lost, rel=0.02)
    assert found["scale"] == pytest.approx(float(x.abs().max()) / 127)


def test_what_overflows_is_known_and_its_share_where_it_was_counted() -> None:
    x = data("heavy tails") * 100
    counted, bare = (
        normprobe.record(nn.LayerNorm(WIDTH), [x], quantiles=on).fit("fp8_e4m3").iloc[0]
        for on in (True, False)
    )
    share = float((x.abs() > 448).double().mean())
    assert counted["overflows"]
    assert bare["overflows"]
    assert counted["overflow_share"] == pytest.approx(share, abs=1e-12)
    assert counted["headroom"] < 0
    assert np.isnan(bare["overflow_share"])


def test_nothing_is_claimed_of_small_values_that_were_not_counted() -> None:
    found = row(recorded("normal", counted=False), "fp8_e4m3")
    shares = ["below_normal", "flushed", "scaled_below_normal", "scaled_flushed"]
    assert found[shares].isna().all()
    of_blocks = row(recorded("normal"), "mxfp8")
    assert of_blocks[["headroom", "overflows", "below_normal", "flushed"]].isna().all()


@pytest.mark.parametrize("form", NUMBER_FORMATS)
def test_features_have_a_row_each(form: Any) -> None:
    found = recorded("outlier channels").fit(form, by="feature").query("site == 'input'")
    x = data("outlier channels").double()
    assert found["feature"].tolist() == list(range(WIDTH))
    np.testing.assert_allclose(found["abs_max"], x.abs().amax(0), rtol=1e-6)
    one = casts.per_tensor(x, form)
    real = [casts.snr(x[:, at], one[:, at]) for at in range(WIDTH)]
    np.testing.assert_allclose(found["snr_db"], real, atol=2.0)
    if form == "int8":
        each = casts.per_channel(x, form)
        gain = [casts.snr(x[:, at], each[:, at]) - real[at] for at in range(WIDTH)]
        np.testing.assert_allclose(found["channel_gain_db"], gain, atol=2.0)


def test_a_site_without_numbers_and_features_of_zeros_have_rows() -> None:
    x = torch.zeros(40, 4)
    x[:, 1] = torch.randn(40)
    found = normprobe.record(nn.Linear(4, 3), [x], quantiles=True)
    by_site, by_feature = found.fit("nvfp4"), found.fit("int8", by="feature")
    assert len(by_site) == 2
    assert np.isfinite(by_site["snr_db"]).all()
    assert by_feature.query("site == 'input'")["snr_db"].isna().tolist() == [True, False, True, True]
    infinite = normprobe.record(nn.Linear(4, 3), [torch.full((8, 4), np.inf)], quantiles=True)
    with np.errstate(all="raise"):
        for form in NUMBER_FORMATS:
            assert infinite.fit(form)["abs_max"].isna().all()


def test_what_cannot_be_told_is_refused_in_words() -> None:
    recording = recorded("normal")
    with pytest.raises(NormprobeError, match=r"fit knows fp16, .*, got 'fp8'.*close: "):
        recording.fit("fp8")  # type: ignore[arg-type]
    with pytest.raises(NormprobeError, match="by must be 'layer' or 'feature', got 'row'"):
        recording.fit("int8", by="row")  # type: ignore[arg-type]
    probe = normprobe.Probe(nn.Linear(2, 2))
    with pytest.raises(NoSamplesError):
        probe.recording.fit("int8")
