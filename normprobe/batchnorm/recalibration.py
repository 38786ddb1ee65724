"""Running statistics collected anew: those of a whole set of data, in place of a moving average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
import pandas as pd
import torch
from torch import nn

from normprobe.capture.batches.progress_bar import Progress
from normprobe.capture.batches.run_batches import in_modes, run_batches, single_values_explained
from normprobe.errors import NoLayersError, NormprobeError, NoSamplesError
from normprobe.layers.find import Layer, find_layers
from normprobe.layers.module_attributes import is_lazy
from normprobe.probe import Probe
from normprobe.recording import Recording
from normprobe.tables.measures.running_statistics import (
    collected_variance,
    log_variance_ratio,
    standard_shift,
)
from normprobe.vocabulary import INPUT

_BatchNorm = nn.modules.batchnorm._BatchNorm


def recalibrate(
    model: nn.Module,
    batches: Any,
    *,
    layers: Any = None,
    mask: Any = "auto",
    progress: Progress = None,
) -> pd.DataFrame:
    """Replace the running statistics of a model's batch norms by the moments of some data.

    The model runs once over the data with its batch norms in train mode and everything else in evaluation
    mode, without gradients. Each batch norm's running mean and variance become those of all the values it
    read, in all batches and calls, merged exactly: no momentum, and no weight on the last batches. This is
    PreciseBN (Wu and Johnson, arXiv:2105.07576). The variance is the one torch collects, with the divisor
    n - 1, n being all values of the channel.

    Everything else is as before: modes, gradients, hooks, random number generators, all other parameters and
    buffers. ``num_batches_tracked`` stays too, except where ``momentum`` is None: there it becomes the number
    of calls, since that is the weight of the statistics in a cumulative average that training goes on with.

    >>> moved = normprobe.batchnorm.recalibrate(model, loader)

    Args:
        model: The model, changed in place. A compiled one runs uncompiled, with the same buffers.
        batches: As `normprobe.record` takes them: data as in training, in batches of its size; labels are
            left out, and the table's ``attrs["warnings"]`` says so. Augmentation is theirs to do.
        layers: Which batch norms, as glob patterns or a predicate; all by default.
        mask: Where the padding is, as `normprobe.Probe` takes it. Padding enters no statistic; with None it
            does, as in torch's own training.
        progress: True for a bar; or called with the number of batches done, after each.

    Returns:
        DataFrame, a row per batch norm that was recalibrated, in order of execution: ``layer``, ``calls``,
        ``count`` (values per channel, the median), ``shift`` (median over channels of |new - old mean| ÷ old
        standard deviation) and ``log_variance_ratio`` (median over channels of ln(new ÷ old variance)), with
        the layer's eps added to variances.

    Raises:
        NoLayersError: The model has no batch norm with running statistics, or ``layers`` matches none.
        NoSamplesError: No batch norm was called.
        NormprobeError: ``model`` is none, or a batch norm read NaN or Inf, no value, or a single one per
            channel. The model is unchanged.
    """
    if not isinstance(model, nn.Module):
        raise NormprobeError(
            f"recalibrate takes a model, got {type(model).__name__}: normprobe.batchnorm.recalibrate(model, "
            "batches)"
        )
    model = getattr(model, "_orig_mod", model)
    norms = {layer.name: layer.module for layer in _batch_norms(model, layers)}
    tracked = {name: module for name, module in norms.items() if _tracks(module)}
    if not tracked:
        raise NoLayersError(
            f"none of the {len(norms)} batch norms of {type(model).__name__} holds running statistics that "
            "torch updates; recalibrate takes nn.BatchNorm1d to 3d and nn.SyncBatchNorm with "
            "track_running_stats=True"
        )
    probe = Probe(
        model, layers=lambda _, module: any(module is norm for norm in tracked.values()), mask=mask,
        samples=0, values=0,
    )  # fmt: skip
    trained = {id(module) for module in tracked.values()}
    with (
        in_modes(model, lambda module: id(module) in trained, restore=True),
        single_values_explained(),
        probe,
    ):
        left_out = run_batches(model, batches, progress)
    moved = _put(tracked, probe.recording)
    moved.attrs["warnings"] = [left_out] if left_out else []
    return moved


def _batch_norms(model: nn.Module, layers: Any) -> tuple[Layer, ...]:
    """The batch norms of a model that a filter selects.

    Raises:
        NoLayersError: the model has none, or the filter selects none.
    """
    try:
        every = find_layers(model).layers
    except NoLayersError:  # of convolutions alone, say
        every = ()
    if not any(layer.view.kind == "batch_norm" for layer in every):
        held = ", ".join(sorted({layer.view.kind for layer in every})) or "neither a Linear nor another norm"
        raise NoLayersError(f"the model has no BatchNorm to recalibrate: {type(model).__name__} has {held}")
    return find_layers(model, layers, "batch_norm").layers


def _tracks(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether a module is one of torch's batch norms and holds running statistics."""
    if not isinstance(module, _BatchNorm) or module.running_mean is None:
        return False
    return not is_lazy(module.running_mean)


def _put(norms: Mapping[str, _BatchNorm], recording: Recording) -> pd.DataFrame:
    """Write the moments of a recording into batch norms, all or none, and say what moved."""
    fired = recording.ledger[recording.ledger["calls"] > 0].set_index("layer")
    if fired.empty:
        raise NoSamplesError("no BatchNorm was called, so there is nothing to collect; are there batches?")
    rows = recording.tables.features[recording.tables.features["site"] == INPUT]
    moments = {str(name): some.sort_values("feature") for name, some in rows.groupby("layer", sort=False)}
    # All are looked at before any is written.
    for name, some in moments.items():
        if int(some["nonfinite"].sum()):
            raise NormprobeError(
                f"{name} ({fired['type'][name]}) read {int(some['nonfinite'].sum())} values that are NaN or "
                "Inf, of which no moment can be taken; find them with recording.findings(). "
                "The model is unchanged"
            )
        fewest = int(some["count"].min())
        if fewest < 2:  # of one value no variance can be taken; torch refuses it, too
            read = "read a single value per channel beside padding; use batches of more examples"
            if not fewest:
                read = "read no value: the batches hold no example, or nothing but padding"
            raise NormprobeError(f"{name} ({fired['type'][name]}) {read}. The model is unchanged")
    order = recording.tables.layers.drop_duplicates("layer").sort_values("depth")["layer"]
    return pd.DataFrame(
        [{"layer": name, **_write(norms[name], moments[name], int(fired["calls"][name]))} for name in order]
    ).astype({"layer": "string"})


def _write(norm: _BatchNorm, moments: pd.DataFrame, calls: int) -> dict[str, float]:
    """Set the running statistics of one batch norm, and return how far they moved."""
    count = moments["count"].to_numpy()
    mean = moments["mean"].to_numpy()
    variance = collected_variance(moments["variance"].to_numpy(), count)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    old_mean, old_variance = (held.double().cpu().numpy() for held in (norm.running_mean, norm.running_var))
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor(mean))
        norm.running_var.copy_(torch.tensor(variance))
        if norm.momentum is None and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(calls)
    old_with_eps = old_variance + norm.eps
    shift = np.abs(standard_shift(mean - old_mean, old_with_eps))
    factor = log_variance_ratio(variance + norm.eps, old_with_eps)
    return {
        "calls": calls,
        "count": int(np.median(count)),
        "shift": float(np.median(shift)),
        "log_variance_ratio": float(np.median(factor)),
    }
