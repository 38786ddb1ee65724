"""Where two sets of tables differ first."""

from normprobe.comparison.build import LEVEL, Differences, differences
from normprobe.comparison.result import Comparison, compare
from normprobe.comparison.schema import LAYERS, UNMATCHED
from normprobe.comparison.verdict import Divergence, sentences, shown_name

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
