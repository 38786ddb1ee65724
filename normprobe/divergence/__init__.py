"""Where two sets of tables differ first."""

from normprobe.divergence.differences import LEVEL, Differences, differences
from normprobe.comparison import Comparison, compare
from normprobe.divergence.columns import LAYERS, UNMATCHED
from normprobe.divergence.verdict import Divergence, sentences, shown_name

__all__ = [
    "LAYERS",
    "LEVEL",
    "UNMATCHED",
    "Comparison",
    "Differences",
    "Divergence",
    "compare",
    "differences",
    "sentences",
    "shown_name",
]
