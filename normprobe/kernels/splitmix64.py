"""splitmix64 (Steele, Lea, Flood 2014): the hash by which samples are kept, and the mixing of a fingerprint.

Twin of ``csrc/numerics/splitmix64.h``. What it gives is saved in files, so it cannot change: tests pin it.
"""

from __future__ import annotations

from typing import Any

WORD = (1 << 64) - 1
"""All bits of a state."""

_GAMMA = 0x9E3779B97F4A7C15
"""The golden ratio in 64 bits, odd: added in each step."""

_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix(state: Any, number: Any) -> Any:
    """The next state after taking in a number: every bit of both moves every bit of it.

    Args:
        state: a Python number of 64 bits, or a uint64 numpy array.
        number: likewise, the two broadcast; negative numbers as their two's complement.
    """
    # Arrays wrap by themselves; Python's numbers are cut to a word.
    state = ((state ^ number) + _GAMMA) & WORD
    state = ((state ^ (state >> 30)) * _FIRST) & WORD
    state = ((state ^ (state >> 27)) * _SECOND) & WORD
    return state ^ (state >> 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


_SIGNED_GAMMA, _SIGNED_FIRST = _signed(_GAMMA), _signed(_FIRST)


def mix_signed(state: Any) -> Any:
    """The bits of int64 numbers mixed in one round less, for sums of many numbers on any device.

    Args:
        state: an int64 numpy array or torch tensor, which wrap; torch has no uint64 arithmetic.
    """
    state = (state + 1) * _SIGNED_GAMMA
    # `>>` of a signed number repeats its sign: masked, for zeros are to come in.
    state = (state ^ ((state >> 29) & 0x7FFFFFFFF)) * _SIGNED_FIRST
    return state ^ ((state >> 32) & 0xFFFFFFFF)
