"""Which layers of a recording can go into a file, with their moments, and why others cannot."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from normprobe.kernels.moments import Moments
from normprobe.tables.derive import moments_of, starts
from normprobe.tables.frames import Tables
from normprobe.vocabulary import INPUT

LINEAR = ("linear",)

NOT_FIRED = "did not fire"


@dataclass(frozen=True)
class Selection:
    """What a file may hold of a recording's layers, at one site.

    Attributes:
        moments: of each feature, by layer, in order of definition; arrays of shape (features,).
        left_out: of each other layer, what became of it, as the end of a sentence.
        unmasked: those of ``moments`` that no mask was found for, though the data have padding.
        aliases: those of ``moments`` that the model has under several names.
    """

    moments: dict[str, Moments]
    left_out: dict[str, str]
    unmasked: tuple[str, ...]
    aliases: frozenset[str]

    def without(self, layers: Collection[str]) -> Selection:
        """The same without some layers."""
        return replace(self, moments={name: m for name, m in self.moments.items() if name not in layers})


def select(tables: Tables, site: str, kinds: Collection[str] = LINEAR) -> Selection:
    """The layers of these kinds, with their moments where these are those of every row at the site.

    Layers that met NaN or Inf are left out: the moments are over finite values, the files' readers' are not.
    """
    measured = dict(_moments_at(tables, site))
    ledger = tables.ledger_base
    rows = [row for row in ledger.itertuples() if row.kind in kinds]
    why = {str(row.layer): _why_not(row, measured, site) for row in rows}
    taken = [row for row in rows if not why[str(row.layer)]]
    padded = bool(tables.facts.get("padding"))
    return Selection(
        moments={str(row.layer): measured[str(row.layer)] for row in taken},
        left_out={layer: reason for layer, reason in why.items() if reason},
        unmasked=tuple(str(row.layer) for row in taken if padded and _is_empty(row.masked_by)),
        aliases=frozenset(str(row.layer) for row in taken if not _is_empty(row.aliases)),
    )


def _moments_at(tables: Tables, site: str) -> Iterator[tuple[str, Moments]]:
    """Layer and moments of each of its features, of all layers that fired."""
    every = moments_of(tables.feature_moments)
    edges = starts(tables.sites["n_features"])
    for place in np.flatnonzero((tables.sites["site"] == site).to_numpy()):
        rows = slice(edges[place], edges[place + 1])
        yield str(tables.sites["layer"].iloc[place]), every.map(lambda field, rows=rows: field[rows])


def _why_not(row: Any, measured: dict[str, Moments], site: str) -> str:
    """Why a layer of the ledger cannot be in the file; empty where it can."""
    if row.status == "never fired":
        return NOT_FIRED
    if row.status != "fired":
        return f"could not be measured ({row.status if _is_empty(row.reason) else row.reason})"
    verb = "read" if site == INPUT else "wrote"
    moments = measured.get(str(row.layer))
    # A feature without a finite value has no extremes, either.
    if moments is not None and moments.nonfinite.any():
        return f"{verb} NaN or Inf"
    return "" if moments is not None and moments.count.any() else f"{verb} no row"


def _is_empty(text: Any) -> bool:
    return bool(pd.isna(text)) or not text
