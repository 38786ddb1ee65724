"""Where two sets of tables differ first: the engine of `compare` and `compare_live`.

In: the tables of two recordings, or the power sums of two models run side by side. Out: `Differences`, a row
per matched layer and site, with the noise that rounding or sampling explains already judged. Here: matching
of layers and samples, the error and what of it is inherited, what of the layers' own differs, the verdict in
words, and its findings.
"""

from normprobe.divergence.allowed_error import error_above
from normprobe.divergence.columns import CAUSES, LAYERS, UNMATCHED
from normprobe.divergence.differences import LEVEL, Differences, differences
from normprobe.divergence.json_document import document, finding_changes
from normprobe.divergence.side_names import side_names
from normprobe.divergence.stored_differences import StoredTensors
from normprobe.divergence.verdict import (
    VERDICTS,
    Divergence,
    answer_parts,
    sentences,
    shown_name,
    verdict_code,
)

__all__ = [
    "CAUSES",
    "LAYERS",
    "LEVEL",
    "UNMATCHED",
    "VERDICTS",
    "Differences",
    "Divergence",
    "StoredTensors",
    "answer_parts",
    "differences",
    "document",
    "error_above",
    "finding_changes",
    "sentences",
    "shown_name",
    "side_names",
    "verdict_code",
]
