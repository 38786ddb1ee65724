"""Attention by head: the largest logit, and the entropy of the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from normprobe.tables.columns.blocks import ATTENTION
from normprobe.tables.columns.tables import shaped
from normprobe.vocabulary import ENTROPY, MAX_LOGIT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


def attention_table(tables: Tables) -> pd.DataFrame:
    """A row per attention layer and head that showed its weights, from the moments over its queries."""
    features = tables.features
    heads = features[features["kind"] == "attention"]
    logits, entropy = (
        heads[heads["site"] == site].set_index(["layer", "feature"]) for site in (MAX_LOGIT, ENTROPY)
    )
    # Both are measured together, so this changes nothing but the order of rows.
    logits = logits.reindex(entropy.index)
    calls = tables.layers[tables.layers["site"] == ENTROPY].set_index("layer")["calls"]
    frame = pd.DataFrame(
        {
            "max_logit": logits["max"],
            "mean_max_logit": logits["mean"],
            "entropy": entropy["mean"],
            "entropy_variance": entropy["variance"],
            "entropy_min": entropy["min"],
            "entropy_max": entropy["max"],
            "rows": entropy["count"],
            "nonfinite": entropy["nonfinite"],
        }
    ).reset_index()
    frame = frame.rename(columns={"feature": "head"})
    return shaped(frame.assign(calls=frame["layer"].map(calls)), ATTENTION)
