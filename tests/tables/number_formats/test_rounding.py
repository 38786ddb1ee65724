"""Rounding in numpy against casts of torch, and blocks against their definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normprobe.tables.number_formats.formats import FORMATS, MXFP8, NVFP4
from normprobe.tables.number_formats.rounding import (
    decibels,
    in_blocks,
    rounded,
    step_of,
    tensor_scale,
    value_scale,
)
from normprobe.vocabulary import NUMBER_FORMATS
from tests.helpers import number_formats as casts


def values(seed: int = 0) -> torch.Tensor:
    """Of all sizes, with zeros, ties, and numbers of the formats themselves."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(4000, generator=generator) * torch.exp(8 * torch.randn(4000, generator=generator))
    ties = torch.arange(-200, 201) / 16
    return torch.cat([random, ties, ties * 2.0**-9, ties * 64, torch.zeros(1)])


@pytest.mark.parametrize("name", [*casts.DTYPES, "int8", "nvfp4"])
def test_rounding_is_a_cast(name: str) -> None:
    x = values()
    expected = casts.cast(x, "e2m1" if name == "nvfp4" else name).numpy()
    np.testing.assert_array_equal(rounded(x.double().numpy(), FORMATS[name]), expected)


@pytest.mark.parametrize("name", list(casts.DTYPES))
def test_the_constants_are_those_of_torch(name: str) -> None:
    form, of_torch = FORMATS[name], torch.finfo(casts.DTYPES[name])
    assert form.largest == of_torch.max
    assert form.smallest_normal == of_torch.tiny
    assert form.smallest == of_torch.smallest_normal * 2.0**-form.fraction_bits
    assert 2.0**-form.fraction_bits == of_torch.eps


def test_every_format_is_named_in_the_vocabulary() -> None:
    assert tuple(FORMATS) == NUMBER_FORMATS
    assert MXFP8.largest == FORMATS["fp8_e4m3"].largest == 448
    # E2M1 has 0, 0.5, 1, 1.5, 2, 3, 4 and 6.
    grid = np.unique(rounded(np.linspace(0, 7, 1000), NVFP4))
    assert grid.tolist() == casts.E2M1.tolist()


def test_steps_are_the_distances_of_neighbours() -> None:
    assert step_of(np.array([1.0, 1.9, 2.0, 3.9, 2.0**-20]), FORMATS["fp8_e4m3"]).tolist() == [
        0.125,
        0.125,
        0.25,
        0.25,
        2.0**-9,
    ]
    assert step_of(np.array([0.2, 90.0]), FORMATS["int8"]).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ["mxfp8", "nvfp4"])
def test_blocks_are_those_of_the_definition(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(64, 96, generator=generator) * torch.exp(2 * torch.randn(64, 96, generator=generator))
    rows[3, :32] = 0
    # A block whose scale, as E4M3, is 0.
    rows[5, 32:64] *= 1e-9
    expected = casts.mxfp8(rows) if name == "mxfp8" else casts.nvfp4(rows)
    found = in_blocks(rows.double().numpy(), FORMATS[name], float(rows.abs().max()))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12, atol=0)


def test_a_last_block_that_is_not_whole_has_a_scale_of_its_own() -> None:
    rows = np.concatenate([np.full((2, 32), 100.0), np.full((2, 5), 0.001)], axis=1)
    found = in_blocks(rows, MXFP8, 100.0)
    assert found.shape == rows.shape
    np.testing.assert_allclose(found, rows, rtol=0.07)


def test_scales_bring_the_largest_value_to_the_largest_number() -> None:
    assert tensor_scale(1270.0, FORMATS["int8"]) == 10
    assert tensor_scale(896.0, FORMATS["fp8_e4m3"]) == 2
    # A power of two, under which up to 512 may be left.
    assert tensor_scale(1000.0, MXFP8) == 2.0
    assert tensor_scale(6 * 448 * 3.0, NVFP4) == 3.0
    assert value_scale(np.array([12.0]), NVFP4).tolist() == [2.0]
    # What fits is not scaled; what does not is by the power of two that is enough.
    assert tensor_scale(np.array([1.0, 65504.0, 65505.0]), FORMATS["fp16"]).tolist() == [1, 1, 2]
    assert tensor_scale(np.array([0.0]), FORMATS["int8"]).tolist() == [1.0]


def test_decibels_of_no_noise_and_of_no_signal() -> None:
    assert decibels(np.array([1.0, 1.0, 0.0]), np.array([0.01, 0.0, 0.0])).tolist()[:2] == [20.0, np.inf]
    assert np.isnan(decibels(0.0, 0.0))
