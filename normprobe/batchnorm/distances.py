"""How far what a batch norm sees lies from its running statistics: per channel, per layer, per model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.recording import Recording


def channels(recording: Recording) -> pd.DataFrame:
    """Return how far each channel of each batch norm is from its running statistics.

    Observed and running moments are taken for those of two normal distributions, with the layer's eps added
    to both variances, as the layer itself does. The observed variance is multiplied by n / (n - 1), as the
    running one is collected.

    Args:
        recording: A recording of the model on the data in question.

    Returns:
        DataFrame, a row per channel in order of execution: ``layer``, ``depth``, ``feature``, ``count``
        (values observed), ``shift`` ((observed - running mean) ÷ running standard deviation),
        ``log_variance_ratio`` (natural logarithm of observed ÷ running variance), ``kl`` (the sum of both
        Kullback-Leibler divergences, in nats: Jeffreys 1946) and ``hellinger`` (the Hellinger distance, 0
        for the same distribution to 1). Layers without running statistics have no rows.
    """
    features, layers = recording.features, recording.layers
    rows = features[(features["site"] == INPUT) & features["running_var"].notna()]
    rows = rows[rows["seen_variance"].notna() & (rows["count"] > 0)]
    eps = rows["layer"].map(recording.ledger.set_index("layer")["eps"]).astype("float64").fillna(0.0)
    unbiased = rows["seen_variance"] * rows["count"] / (rows["count"] - 1).clip(lower=1)
    depth = layers.drop_duplicates("layer").set_index("layer")["depth"]
    frame = pd.DataFrame(
        {
            "layer": rows["layer"],
            "depth": rows["layer"].map(depth),
            "feature": rows["feature"],
            "count": rows["count"],
            **_distances(rows["seen_mean"] - rows["running_mean"], unbiased + eps, rows["running_var"] + eps),
        }
    )
    frame = frame.astype({"layer": "string", "depth": "int64"})
    return frame.sort_values(["depth", "feature"], kind="stable").reset_index(drop=True)


def _distances(apart: pd.Series, observed: pd.Series, running: pd.Series) -> dict[str, pd.Series]:
    """Return the columns that compare N(mean, observed) with N(mean - apart, running), variances > 0."""
    observed, running = observed.where(observed > 0), running.where(running > 0)
    ratio = observed / running
    square = apart**2
    divergence = ((ratio + 1 / ratio - 2) + square * (1 / observed + 1 / running)) / 2
    both = observed + running
    overlap = (2 * (observed * running) ** 0.5 / both) ** 0.5 * np.exp(-square / (4 * both))
    logarithm: pd.Series = np.log(ratio)  # type: ignore[assignment]
    return {
        "shift": apart / running**0.5,
        "log_variance_ratio": logarithm,
        "kl": divergence,
        "hellinger": (1 - overlap).clip(lower=0) ** 0.5,
    }


def audit(recording: Recording, *, top: int = 3) -> pd.DataFrame:
    """Return how far each batch norm's running statistics are from what it sees.

    Args:
        recording: A recording of the model on the data in question, best in evaluation mode.
        top: How many of the channels that moved most are named.

    Returns:
        DataFrame, a row per batch norm with running statistics, in order of execution: ``layer``, ``depth``,
        ``training`` (the modes it ran in; in train mode running statistics are not used), ``n_features``,
        ``count`` (values per channel, the median), ``shift`` (median |shift| over channels, in running
        standard deviations), ``log_variance_ratio`` (median over channels, natural logarithm; negative where
        less is seen than in training), ``kl`` and ``hellinger`` (means over channels), and ``channels``
        (those that moved most by Hellinger distance, the first first, joined by ``; ``).
    """
    rows = channels(recording)
    groups = rows.assign(shift=rows["shift"].abs()).groupby("layer", sort=False, observed=True)
    middle = groups[["depth", "count", "shift", "log_variance_ratio"]].median()
    far = rows.sort_values(["hellinger", "feature"], ascending=[False, True], kind="stable")
    names = far.groupby("layer", sort=False)["feature"].agg(lambda some: "; ".join(map(str, some[:top])))
    ledger = recording.ledger.set_index("layer")
    table = middle.join(groups[["kl", "hellinger"]].mean())
    table.insert(1, "training", ledger["training"].reindex(table.index))
    table.insert(2, "n_features", groups.size())
    table["channels"] = names.reindex(table.index)
    return table.reset_index().astype(
        {"layer": "string", "channels": "string", "depth": "int64", "count": "int64"}
    )


def score(recording: Recording) -> float:
    """Return one number for a model: 0 where it runs as in training, towards 1 as it loses its footing.

    The larger of two. One is the Hellinger distance of the last batch norm, the mean over its channels: what
    earlier ones do wrong has arrived there. The other is the share of the mean square of the last Linear's
    output that is the same for all samples, 1 - variance over samples ÷ mean square: data that a model was
    not made for look alike to it, and it answers them alike, whatever the moments of its channels say. A
    model without a Linear behind its batch norms has only the first.

    It orders data sets by the accuracy a model loses on them. It is no estimate of that accuracy, and the
    second part is not 0 on the training data: compare with the score of data that are known to be right.

    Args:
        recording: A recording of the model in evaluation mode.

    Returns:
        The score, 0 to 1; NaN without a batch norm that has running statistics.
    """
    rows = channels(recording)
    if rows.empty:
        return float("nan")
    last = rows["depth"].max()
    moved = float(rows.loc[rows["depth"] == last, "hellinger"].mean())
    layers = recording.layers
    heads = layers[
        (layers["kind"] == "linear") & (layers["site"] == OUTPUT) & (layers["depth"] > rows["depth"].min())
    ]
    if heads.empty:
        return moved
    head = heads.loc[heads["depth"].idxmax()]
    square = head["variance"] + head["mean"] ** 2
    alike = 1 - head["within_feature_variance"] / square if square > 0 else 1.0
    return float(max(moved, alike))
