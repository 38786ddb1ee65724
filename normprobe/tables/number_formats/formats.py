"""Formats of few bits: their largest and smallest numbers, and how they are scaled.

Sources: IEEE 754-2019 (binary16); "A Study of BFLOAT16 for Deep Learning Training", arXiv:1905.12322 (the
upper half of binary32); OCP 8-bit Floating Point Specification (OFP8) 1.0 and arXiv:2209.05433 (E4M3, E5M2);
OCP Microscaling Formats (MX) 1.0 (MXFP8: blocks of 32 under one E8M0 scale, section 6.3 for the scale);
NVIDIA, "Pretraining Large Language Models with NVFP4", arXiv:2509.25149 (blocks of 16 E2M1 numbers under one
E4M3 scale, and one float32 scale of the tensor).
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class NumberFormat:
    """A format that values are rounded to.

    Attributes:
        name: its name.
        largest: the largest number.
        smallest_normal: the smallest number of full precision; of integers 1.
        smallest: the smallest number above 0.
        fraction_bits: bits behind the leading 1 of a normal number; 0 for integers, whose steps are 1.
        scaled: whether values are divided by a scale, so that the largest of them is the format's largest.
        block: how many values share a scale in a block of their own; 0 for formats without blocks.
    """

    name: str
    largest: float
    smallest_normal: float
    smallest: float
    fraction_bits: int
    scaled: bool = True
    block: int = 0

    @property
    def is_integer(self) -> bool:
        """Whether its steps are of one size."""
        return self.smallest_normal == self.smallest


FP16 = NumberFormat(
    name="fp16",
    largest=65504.0,
    smallest_normal=2.0**-14,
    smallest=2.0**-24,
    fraction_bits=10,
    scaled=False,
)
BF16 = NumberFormat(
    name="bf16",
    largest=(2 - 2.0**-7) * 2.0**127,
    smallest_normal=2.0**-126,
    smallest=2.0**-133,
    fraction_bits=7,
    scaled=False,
)
# It has no infinity, but its last code is NaN: 448 is the largest, and not 480.
FP8_E4M3 = NumberFormat(
    name="fp8_e4m3", largest=448.0, smallest_normal=2.0**-6, smallest=2.0**-9, fraction_bits=3
)
# Its highest exponent is that of Inf and NaN, as in IEEE formats.
FP8_E5M2 = NumberFormat(
    name="fp8_e5m2", largest=57344.0, smallest_normal=2.0**-14, smallest=2.0**-16, fraction_bits=2
)
MXFP8 = replace(FP8_E4M3, name="mxfp8", block=32)
NVFP4 = NumberFormat(name="nvfp4", largest=6.0, smallest_normal=1.0, smallest=0.5, fraction_bits=1, block=16)
# -128 is left out, as scales are symmetric.
INT8 = NumberFormat(name="int8", largest=127.0, smallest_normal=1.0, smallest=1.0, fraction_bits=0)

FORMATS = {found.name: found for found in (FP16, BF16, FP8_E4M3, FP8_E5M2, MXFP8, NVFP4, INT8)}
"""Every format by name."""
