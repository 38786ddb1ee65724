"""Which warnings of healthy random models are true, by hand."""

from __future__ import annotations

import csv
import fnmatch
from functools import cache
from pathlib import Path


@cache
def _table() -> list[dict[str, str]]:
    with (Path(__file__).parent / "warnings.csv").open() as file:
        return list(csv.DictReader(file))


def verdict(library: str, model: str, check: str, layer: str) -> str:
    """Whether a warning is true or false by the table; "open" if the table has no line for it."""
    for row in _table():
        patterns = ((row["library"], library), (row["model"], model), (row["layer"], layer))
        if row["check"] == check and all(fnmatch.fnmatchcase(name, pattern) for pattern, name in patterns):
            return row["verdict"]
    return "open"
