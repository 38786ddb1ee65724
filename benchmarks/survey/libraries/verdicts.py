"""What the survey's own tables say of a fault or a warning: known misses, warnings judged by hand."""

from __future__ import annotations

import csv
import fnmatch
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.survey.libraries.check import Fault


@cache
def _table(name: str) -> list[dict[str, str]]:
    with (Path(__file__).parent / name).open() as file:
        return list(csv.DictReader(file))


def _matches(row: dict[str, str], **values: str) -> bool:
    return all(fnmatch.fnmatchcase(value, row[name]) for name, value in values.items())


def of_warning(library: str, model: str, check: str, layer: str) -> str:
    """Whether a warning of a model as it was built is true or false; "open" if the table does not say."""
    for row in _table("warnings.csv"):
        if _matches(row, library=library, model=model, check=check, layer=layer):
            return row["verdict"]
    return "open"


def is_known(library: str, model: str, fault: Fault) -> bool:
    """Whether a fault is among the misses that the page of limits names."""
    rows = _table("misses.csv")
    return any(_matches(r, library=library, model=model, sort=fault.sort, type=fault.type) for r in rows)
