"""Every library of the survey, by the name under which it is installed."""

from __future__ import annotations

from benchmarks.survey.libraries import backends, diffusion, graphs, language, sequences, tables, vision
from benchmarks.survey.libraries.entry import Entries

LIBRARIES: dict[str, Entries] = {
    **language.LIBRARIES,
    **vision.LIBRARIES,
    **diffusion.LIBRARIES,
    **graphs.LIBRARIES,
    **sequences.LIBRARIES,
    **tables.LIBRARIES,
    **backends.LIBRARIES,
}
