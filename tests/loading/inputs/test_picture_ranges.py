"""Pictures whose numbers are not 0 to 255: scaled by their range, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normprobe.errors import DataError
from normprobe.loading.inputs.images import open_image

RAMP = np.linspace(0, 255, 30 * 20).reshape(20, 30)

FILES: dict[str, Any] = {
    "16 bits, PNG": ("x.png", RAMP * 257, np.uint16),
    "16 bits, TIFF": ("x.tiff", RAMP * 257, np.uint16),
    "16 bits, PGM": ("x.pgm", RAMP * 257, np.uint16),
    "floating from 0 to 1": ("x.tiff", RAMP / 255, np.float32),
    "floating from 0 to 255": ("x.tiff", RAMP, np.float32),
    "floating from 0 to 65,535": ("x.tiff", RAMP * 257, np.float32),
    "32 bits from 0 to 255": ("x.tiff", RAMP, np.int32),
    "32 bits from 0 to 65,535": ("x.tiff", RAMP * 257, np.int32),
    "8 bits": ("x.png", RAMP, np.uint8),
}


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("name", FILES)
def test_a_ramp_is_the_same_ramp_in_8_bits(tmp_path: Path, name: str, n_channels: int) -> None:
    file, values, dtype = FILES[name]
    whole = values.round() if np.dtype(dtype).kind in "iu" else values
    try:
        Image.fromarray(whole.astype(dtype)).save(tmp_path / file)
    except OSError as error:
        pytest.skip(f"this version of pillow {error}")
    opened = np.asarray(open_image(tmp_path / file, n_channels), float)
    expected = RAMP if n_channels == 1 else np.repeat(RAMP[..., None], 3, -1)
    assert opened.shape == expected.shape
    assert np.abs(opened - expected).max() <= 1


def test_a_dark_picture_of_16_bits_stays_dark(tmp_path: Path) -> None:
    Image.fromarray((RAMP + 100).astype(np.uint16)).save(tmp_path / "x.png")
    assert np.asarray(open_image(tmp_path / "x.png", 1)).max() <= 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (RAMP - 100, "floating-point numbers from -100 to 155"),
        (RAMP * 1000, "floating-point numbers from 0 to 255000"),
        (np.full((4, 4), np.nan), "nan"),
        ((RAMP * 1000).astype(np.int32), "whole numbers from 0 to 255000"),
    ],
)
def test_a_range_that_means_nothing_is_refused_by_name(tmp_path: Path, values: Any, words: str) -> None:
    dtype = np.int32 if values.dtype == np.int32 else np.float32
    Image.fromarray(values.astype(dtype)).save(tmp_path / "odd.tiff")
    with pytest.raises(DataError) as caught:
        open_image(tmp_path / "odd.tiff", 3)
    assert words in str(caught.value)
    assert "odd.tiff" in str(caught.value)
