"""The last section of a comparison's page: terms and method in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from normprobe.divergence import Differences

_ERROR = (
    "Error",
    "Noise power over signal power in dB, the negative of SQNR: 10 log10 of the sum of (second − first)² "
    "over the sum of first². −20 dB is a tenth of the signal's size, −40 dB a hundredth, −120 dB about the "
    "rounding of float32.",
)
_ROUNDING = (
    "Rounding",
    "Below the dashed line nothing counts as a difference: 64 units of float32 or one of a coarser dtype "
    "(two where the dtypes differ), or eight times the largest error of the layers before, as long as none "
    "of them diverged.",
)
_SITES = (
    "Input and output",
    "A first divergence at an output arises in the layer. At an input it arises between the layers: in an "
    "activation function, the attention, a residual sum or the embedding.",
)
_SAME = [
    _ERROR,
    (
        "What pairs",
        "Both saw the same data, and kept the same samples: the raw rows of some of them, and mean and "
        "variance of more. Where these, or the means and variances over all data, show more than the raw "
        "rows do, the error is the lower bound that follows from them.",
    ),
    _ROUNDING,
    (
        "Inherited and introduced",
        "Measured at Layer-, RMS- and BatchNorm, whose formula is known: the first model's norm is applied "
        "to what the second one's read, and the rest of the error is its own. Estimated at Linear, Group- "
        "and InstanceNorm, whose weights or rows are not recorded: the input's relative error is taken to "
        "pass through unchanged, and what is left in power is called introduced. `compare_live` measures it "
        "at every layer; the column `split` says which it was.",
    ),
    _SITES,
]
_LIVE = [
    _ERROR,
    (
        "Side by side",
        "Both models ran on the same batches, and every row was compared. What a layer introduces is exact: "
        "what the second model's layer makes of the first one's input, against the first one's output. At an "
        "input, what arises between the layers is estimated from the largest error before it.",
    ),
    _ROUNDING,
    _SITES,
]
_SHIFT = (
    "Mean shift, variance ratio, features moved",
    "Of the output, over all rows: the root mean square over features of the shift of their means, as a "
    "share of the signal; the second's variance over the first's; the share of features that moved beyond "
    "the noise.",
)


def comparison_entries(found: Differences) -> list[tuple[str, str]]:
    """Pairs of term and explanation."""
    if not found.facts["same_data"]:
        return [_ERROR, *_other(found), _SHIFT]
    return [*(_LIVE if found.facts["paired_by"] == "live" else _SAME), _SHIFT]


def _other(found: Differences) -> list[tuple[str, str]]:
    """What errors and chance mean where the two saw other data."""
    level = f"{100 * found.facts['level']:g} %"
    return [
        (
            "Other data",
            "The two saw other data, so nothing pairs, and errors are those of means and standard deviations "
            "of each feature. The dashed line is what so many examples would give by chance if all rows of "
            "one example were alike, which is the worst case.",
        ),
        (
            "p",
            "A permutation test with 999 shuffles of the examples. p says how often chance gives, "
            f"anywhere in the model, a difference as large as this layer's; up to {level} the layer counts "
            f"as different. Of many comparisons of one model with itself {level} name any layer "
            "(Westfall and Young, Resampling-Based Multiple Testing, 1993).",
        ),
    ]
