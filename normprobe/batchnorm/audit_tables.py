"""How far what a batch norm sees lies from its running statistics: per channel, per layer, per model."""

from __future__ import annotations

import numpy as np
import pandas as pd

from normprobe.errors import NormprobeError
from normprobe.recording import Recording
from normprobe.tables.measures.common import at_site
from normprobe.tables.measures.layers import layer_measures
from normprobe.tables.measures.running_statistics import running_channels, running_measures
from normprobe.vocabulary import INPUT, OUTPUT


def channels(recording: Recording) -> pd.DataFrame:
    """How far each channel of each batch norm is from its running statistics.

    Observed and running moments are taken for those of two normal distributions, with the layer's eps added
    to both variances, as the layer itself does. The observed variance is multiplied by n / (n - 1), as the
    running one is collected.

    Args:
        recording: a recording of the model on the data in question.

    Returns:
        DataFrame, a row per channel in order of execution: ``layer``, ``depth``, ``feature``, ``count``
        (values observed), ``shift`` ((observed - running mean) ÷ running standard deviation),
        ``log_variance_ratio`` (natural logarithm of observed ÷ running variance), ``kl`` (the sum of both
        Kullback-Leibler divergences, in nats: Jeffreys 1946) and ``hellinger`` (the Hellinger distance, 0 for
        the same distribution to 1). Of a channel that saw a single value only ``shift`` is defined. Layers
        without running statistics have no rows.

    Raises:
        NormprobeError: what was given is no recording.
    """
    _check_recording(recording, "channels")
    rows = running_channels(recording.tables)
    # Without a finite value nothing was observed.
    rows = rows[rows["count"] > 0]
    depth = recording.tables.layers.drop_duplicates("layer").set_index("layer")["depth"]
    frame = rows[["layer", "feature", "count", "shift", "log_variance_ratio"]].assign(
        depth=rows["layer"].map(depth), **_distances(rows["apart"], rows["observed"], rows["running"])
    )
    frame = frame[list(_CHANNEL_COLUMNS)].astype({"layer": "string", "depth": "int64"})
    return frame.sort_values(["depth", "feature"], kind="stable").reset_index(drop=True)


def _check_recording(given: object, call: str) -> None:
    """Raise unless a recording was given: mostly it is the model."""
    if not isinstance(given, Recording):
        raise NormprobeError(
            f"{call} takes a recording, got {type(given).__name__}; record the model first: "
            f"normprobe.batchnorm.{call}(normprobe.record(model, batches))"
        )


def _check_batch_norms(recording: Recording) -> None:
    """Raise unless a batch norm was probed: no number says anything of a model without."""
    kinds = sorted(set(recording.ledger["kind"]))
    if "batch_norm" not in kinds:
        options = recording.meta["options"]
        filtered = options.get("layers") is not None or options.get("kinds") is not None
        whole = "that was probed of the model " if filtered else ""
        raise NormprobeError(
            f"the model has no BatchNorm: all {whole}is {', '.join(kinds)}"
            + ("; record it without layers= and kinds=" if filtered else "")
        )


_CHANNEL_COLUMNS = ("layer", "depth", "feature", "count", "shift", "log_variance_ratio", "kl", "hellinger")


def _distances(apart: pd.Series, observed: pd.Series, running: pd.Series) -> dict[str, pd.Series]:
    """Distances of N(mean, observed) from N(mean - apart, running), variances > 0."""
    observed, running = observed.where(observed > 0), running.where(running > 0)
    ratio = observed / running
    square = apart**2
    divergence = ((ratio + 1 / ratio - 2) + square * (1 / observed + 1 / running)) / 2
    both = observed + running
    overlap = (2 * (observed * running) ** 0.5 / both) ** 0.5 * np.exp(-square / (4 * both))
    # Of equal distributions rounding may make the overlap more than 1.
    return {"kl": divergence, "hellinger": (1 - overlap).clip(lower=0) ** 0.5}


def audit(recording: Recording, *, top: int = 3) -> pd.DataFrame:
    """How far each batch norm's running statistics are from what it sees.

    Args:
        recording: a recording of the model on the data in question, best in evaluation mode.
        top: how many of the channels that moved most are named.

    Returns:
        DataFrame, a row per batch norm with running statistics, in order of execution: ``layer``, ``depth``,
        ``training`` (the modes it ran in; in train mode running statistics are not used), ``n_features``,
        ``count`` (values per channel, the median), ``shift`` (median |shift| over the channels that vary, in
        running standard deviations), ``log_variance_ratio`` (median over these, natural logarithm; negative
        where less is seen than in training), ``kl`` and ``hellinger`` (means over all channels), and
        ``channels`` (those that moved most by Hellinger distance, the first first, joined by ``; ``).

    Raises:
        NormprobeError: what was given is no recording.
    """
    _check_recording(recording, "audit")
    rows = channels(recording)
    groups = rows.groupby("layer", sort=False, observed=True)
    middle = groups[["depth", "count"]].median()
    moved = at_site(running_measures(recording.tables), INPUT).reindex(middle.index)
    middle["shift"], middle["log_variance_ratio"] = moved["running_shift"], moved["running_log_ratio"]
    # Ties by number, so that the same recording names the same channels.
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
    """One number for a model: 0 where it runs as in training, towards 1 as predictions become uninformative.

    The larger of two. One is the Hellinger distance of the last batch norm, the mean over its channels: what
    earlier ones do wrong has arrived there. The other is the share of the mean square of the last Linear's
    output that is the same for all samples, 1 - variance over samples ÷ mean square: data that a model was
    not made for look alike to it, and it answers them alike, whatever the moments of its channels say. A
    model without a Linear behind its batch norms has only the first.

    It orders data sets by the accuracy a model loses on them. It is no estimate of that accuracy, and the
    second part is not 0 on the training data: compare with the score of data that are known to be right.

    Args:
        recording: a recording of the model in evaluation mode.

    Returns:
        The score, 0 to 1; NaN without a batch norm that has running statistics and saw two values a channel.

    Raises:
        NormprobeError: there is no BatchNorm in the recording, or what was given is no recording.
    """
    _check_recording(recording, "score")
    _check_batch_norms(recording)
    rows = channels(recording)
    if rows.empty:
        return float("nan")
    last = rows["depth"].max()
    moved = float(rows.loc[rows["depth"] == last, "hellinger"].mean())
    outputs = at_site(layer_measures(recording.tables), OUTPUT)
    # Before the first batch norm a Linear knows nothing of running statistics.
    heads = outputs[(outputs["kind"] == "linear") & (outputs["depth"] > rows["depth"].min())]
    if heads.empty:
        return moved
    head = heads.loc[heads["depth"].idxmax()]
    return float(max(moved, 1 - head["spread"]))
