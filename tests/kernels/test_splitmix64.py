"""splitmix64 is the published one, the same for Python's numbers, numpy, torch and the extension."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normprobe.kernels.splitmix64 import WORD, mix, mix_signed

NUMBERS = [0, 1, 1234567, 2**63 - 1, 2**63, WORD]
PUBLISHED = {0: 0xE220A8397B1DCDAF, 1234567: 6457827717110365317}
"""The first output of the authors' generator for a seed, which is what mixing the seed into nothing gives."""


def test_it_gives_what_the_authors_published() -> None:
    assert {seed: mix(0, seed) for seed in PUBLISHED} == PUBLISHED


def test_arrays_give_what_numbers_give() -> None:
    numbers = np.array(NUMBERS, np.uint64)
    found = mix(mix(0, 5), numbers)
    assert found.dtype == np.uint64
    assert found.tolist() == [mix(mix(0, 5), number) for number in NUMBERS]


def test_the_extension_gives_the_same() -> None:
    extension = pytest.importorskip("normprobe.kernels._cpu")
    example, position = np.arange(-3, 4), np.arange(4, 11)
    found = np.frombuffer(extension.hashes(9, example, position), np.uint64)
    pairs = zip(example.tolist(), position.tolist(), strict=True)
    assert found.tolist() == [mix(mix(mix(0, 9), e & WORD), p) >> 1 for e, p in pairs]


def test_signed_mixing_is_the_same_on_tensors_and_pinned() -> None:
    numbers = np.array([0, 1, -1, 2**62, -(2**63)])
    found = mix_signed(numbers)
    assert found.tolist() == mix_signed(torch.from_numpy(numbers)).tolist()
    assert found.tolist() == [
        -3890943948839090055,
        7796372880487179078,
        0,
        4884825088294616551,
        -2995737954261917859,
    ]
