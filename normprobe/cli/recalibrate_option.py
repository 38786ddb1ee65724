"""The option ``--recalibrate``: running statistics collected anew from a command's data, in a new file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from normprobe.cli.options import Request
from normprobe.cli.progress import tracked

if TYPE_CHECKING:
    from normprobe.loading.models import LoadedModel


def check_recalibration(name: str, is_recording: bool, out: Path) -> None:
    """Check, before anything runs, that there will be weights and where to write them.

    Args:
        name: the model or recording, as on the command line.
        is_recording: which of these it is.
        out: the new file.

    Raises:
        UsageError: it is a saved recording, which holds no model.
        ModelError: there is a file already, or its ending says nothing.
    """
    from normprobe.loading.models import check_new_weights

    if is_recording:
        raise click.UsageError(f"{name} is a saved recording: --recalibrate needs the model")
    check_new_weights(out)


def recalibrate_into(out: Path, model: LoadedModel, request: Request) -> None:
    """Recalibrate a model that has been measured on the same data, and write its weights.

    The data are read a second time: measuring comes first, so that the report shows the model as it was.

    Raises:
        NormprobeError: the model has no batch norm, or the data do not fit, or the file cannot be written.
    """
    from normprobe.batchnorm import recalibrate
    from normprobe.loading.inputs import load_inputs
    from normprobe.loading.models import save_weights

    inputs = load_inputs(
        model, request.data, column=request.column, batch_size=request.batch_size, limit=request.limit
    )
    recalibrate(
        model.module,
        tracked(inputs.batches, f"Recalibrating   {inputs.description.partition(' from ')[0]}", inputs.total),
        layers=request.layers or None,
    )
    save_weights(model.module, out)
