"""What experts read that one weight holds, as the weights of a GGUF file have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.kernels.moments import Moments
from normprobe.tables.derive import moments_of, starts
from normprobe.tables.frames import Tables
from normprobe.tables.quantizer_files.gguf_names import gguf_names
from normprobe.vocabulary import INPUT, INTERMEDIATE

UNSEEN = "was used as a copy, so what it reads of each expert is unknown (experts_implementation)"
_NO_NAME = "had no name in a GGUF file"


class ExpertWeights(NamedTuple):
    """Weights of all experts of a module that read the same.

    Attributes:
        layer: the layer of the ledger that holds them.
        weights: their names in a GGUF file; none where llama.cpp has none.
        moments: of each feature, one expert after the other; None where these were not measured.
        rows: how many rows each expert read, shape (experts,).
    """

    layer: str
    weights: tuple[str, ...]
    moments: Moments | None
    rows: NDArray[np.int64]

    @property
    def reason(self) -> str:
        """Why they cannot be in a file, or ""."""
        if self.moments is None:
            return UNSEEN
        if not self.weights:
            return _NO_NAME
        return "read NaN or Inf" if self.moments.nonfinite.any() else ""


def expert_weights(tables: Tables) -> list[ExpertWeights]:
    """Those of every module of experts that was measured, in the order of the ledger.

    Raises:
        RecordingError: llama.cpp has no names for the model, or ``gguf`` is missing.
    """
    places = tables.expert_places
    found = []
    for holder in dict.fromkeys(places["layer"]):
        for layer in tables.ledger_base["layer"]:
            stem, _, weight = str(layer).rpartition(".")
            # Gate and up lie in one weight, and are two in a file.
            parts = ("gate_proj", "up_proj") if weight == "gate_up_proj" else (weight,)
            if stem == holder and weight.endswith("_proj"):
                site = INTERMEDIATE if weight == "down_proj" else INPUT
                names = _names(str(tables.facts["model"]), str(holder), parts)
                found.append(ExpertWeights(str(layer), names, *_read(tables, places, str(holder), site)))
    return found


def _names(model: str, holder: str, parts: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the parts of a weight; of a holder that is called as in older checkpoints, too."""
    for stem in (holder, holder.replace("block_sparse_moe", "mlp")):
        known = gguf_names(model, [f"{stem}.{part}" for part in parts])
        if len(known) == len(parts):
            return tuple(name.weight for name in known.values())
    return ()


def _read(
    tables: Tables, places: pd.DataFrame, holder: str, site: str
) -> tuple[Moments | None, NDArray[np.int64]]:
    at = np.flatnonzero(((places["layer"] == holder) & (places["site"] == site)).to_numpy())
    if not len(at):
        return None, np.empty(0, np.int64)
    # The places of a module and site lie together.
    edges = starts(places["n_features"])
    part = slice(edges[at[0]], edges[at[-1] + 1])
    moments = moments_of(tables.expert_moments).map(lambda field: field[part])
    return moments, places["rows"].to_numpy()[at]


def by_weight(found: list[ExpertWeights]) -> Iterator[tuple[str, ExpertWeights]]:
    """Each weight of a file that can be in it, with what it reads."""
    for each in found:
        for name in each.weights if not each.reason else ():
            yield name, each
