"""Run a model over batches inside a probe: the one-line way to a recording."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from normprobe.errors import NormprobeError
from normprobe.probe import Probe
from normprobe.recording import Recording


def record(
    model: nn.Module, batches: Any, *, progress: Callable[[int], None] | None = None, **options: Any
) -> Recording:
    """Run a model over batches in evaluation mode, without gradients, and measure it.

    >>> recording = normprobe.record(model, [torch.randn(8, 100)])
    >>> recording = normprobe.record(model, loader, layers="encoder.*", samples="all")

    Args:
        model: the model; its modes are as before afterwards.
        batches: an iterable of tensors, of tuples or lists (positional arguments) or of mappings (keyword
            arguments); a single tensor or mapping counts as one batch.
        progress: called with the number of batches done, after each.
        **options: as `Probe` takes them.

    Raises:
        NoLayersError: there is nothing to probe.
        NormprobeError: an option or a batch is not of the form above.
    """
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    probe = Probe(model, **options)
    try:
        for module, _ in modes:
            module.training = False
        with probe, torch.no_grad():
            run_batches(model, batches, progress)
    finally:
        for module, mode in modes:
            module.training = mode
    return probe.recording


def run_batches(model: nn.Module, batches: Any, progress: Callable[[int], None] | None = None) -> None:
    """Call a model on each batch, as `record` takes them, in whatever modes it is.

    Args:
        model: the model.
        batches: an iterable of batches, or a single tensor or mapping.
        progress: called with the number of batches done, after each.

    Raises:
        NormprobeError: a batch is not of a form that `record` takes.
    """
    for done, batch in enumerate([batches] if isinstance(batches, (Tensor, Mapping)) else batches, 1):
        _call(model, batch)
        if progress is not None:
            progress(done)


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Tensor):
        model(batch)
    elif isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, (tuple, list)):
        model(*batch)
    else:
        raise NormprobeError(
            "a batch is a tensor, a tuple or list of arguments, or a mapping of them; "
            f"got {type(batch).__name__}"
        )
