"""A recording from what the command line names: a saved one, or a model that is loaded and run."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normprobe.cli.options import Request
from normprobe.cli.progress import tracked, waiting
from normprobe.cli.recalibrate import check_weights, recalibrate_into
from normprobe.errors import ModelError, NormprobeError

if TYPE_CHECKING:
    from normprobe.loading.inputs import Inputs
    from normprobe.loading.models import LoadedModel
    from normprobe.recording import Recording

_PACKAGE = Path(__file__).parent.parent
_CALLING = ("torch", "nn", "modules", "module.py")
_NOT_A_RECORDING = {
    ".gguf",
    ".py",
    ".pt",
    ".pth",
    ".bin",
    ".pkl",
    ".pickle",
    ".ckpt",
    ".safetensors",
    ".onnx",
}


def is_recording(name: str) -> bool:
    """Whether an argument names a saved recording rather than a model."""
    path = Path(name).expanduser()
    return path.suffix == ".normprobe" or (path.is_file() and path.suffix.lower() not in _NOT_A_RECORDING)


def obtain(
    name: str, request: Request, *, forwards: int | None = None, recalibrate: Path | None = None
) -> Recording:
    """Load a saved recording, or measure a model (on its first ``forwards`` batches).

    Args:
        name: the model or recording, as on the command line.
        request: the options.
        forwards: stop after so many batches; None runs all.
        recalibrate: where to write the model's weights with running statistics of the same data.

    Raises:
        NormprobeError: the recording, model or data cannot be read, or do not fit together.
    """
    if recalibrate is not None:
        check_weights(name, is_recording(name), recalibrate)
    if not is_recording(name):
        return measure(name, request, forwards=forwards, recalibrate=recalibrate)
    if request.given():
        raise click.UsageError(f"{name} is a saved recording: {', '.join(request.given())} cannot change it")
    from normprobe.recording import load

    return load(name)


def measure(
    name: str, request: Request, *, forwards: int | None = None, recalibrate: Path | None = None
) -> Recording:
    """Load a model, run its data through it and return what was measured.

    Args:
        name: the model, as on the command line.
        request: the options.
        forwards: stop after so many batches; None runs all.
        recalibrate: where to write the model's weights with running statistics of the same data.

    Raises:
        NormprobeError: the model or data cannot be read, or do not fit together.
    """
    with waiting(f"Loading   {name}"):
        from normprobe.loading.inputs import check_data, load_inputs
        from normprobe.loading.models import load_model, without_bars

        check_data(request.data)
        with without_bars():
            model = load_model(
                name,
                weights=request.weights,
                dtype=request.dtype,
                device=request.device,
                trust_remote_code=request.trust_remote_code,
            )
            inputs = load_inputs(
                model,
                request.data,
                column=request.column,
                batch_size=request.batch_size,
                limit=request.limit,
            )
    with without_bars():
        recording = _run(model, inputs, request, forwards)
        if recalibrate is not None:
            recalibrate_into(recalibrate, model, request)
    # Only now: an error is to be the one line that is printed.
    for warning in (*model.warnings, *inputs.warnings):
        click.echo(f"Note: {warning}", err=True)
    return recording


def _run(model: LoadedModel, inputs: Inputs, request: Request, forwards: int | None) -> Recording:
    from normprobe.probe import record

    started = time.perf_counter()
    total = inputs.total if forwards is None else forwards
    watched = _Watched(inputs, forwards)
    try:
        recording = record(
            model.module,
            tracked(watched, f"Measuring   {inputs.description.partition(' from ')[0]}", total),
            layers=request.layers or None,
            kinds=request.kinds or None,
            samples=request.samples,
            labels=inputs.labels,
        )
    except NormprobeError:
        raise
    except Exception as cause:
        raise _explained(cause, model, watched) from cause
    return recording.annotate(
        name=model.name,
        data=inputs.description,
        unit=inputs.unit,
        example_unit=inputs.example_unit,
        seconds=time.perf_counter() - started,
        warnings=[*recording.meta["warnings"], *model.warnings, *inputs.warnings],
    )


class _Watched:
    """Batches, remembering the latest, for the message if the model fails on it."""

    def __init__(self, inputs: Inputs, most: int | None) -> None:
        self.latest: Any = None
        self._inputs = inputs
        self._most = most

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self._inputs.batches):
            if number == self._most:
                return
            self.latest = batch
            yield batch


def _explained(cause: Exception, model: LoadedModel, watched: _Watched) -> Exception:
    """What to raise for an error that came up while the model ran."""
    shapes = _shapes(watched.latest)
    text = " ".join(str(cause).split())[:300]
    if _is_memory(cause):
        return ModelError(
            f"out of memory on a batch of {shapes}; "
            "try a smaller --batch-size, shorter data or a smaller --dtype"
        )
    if not _raised_by_model(cause):
        return cause
    return ModelError(
        f"the forward of {type(model.module).__name__} raised {type(cause).__name__}: {text}; "
        f"it was given {shapes}; do the data fit the model?"
    )


def _is_memory(cause: Exception) -> bool:
    known = type(cause).__name__ in {"OutOfMemoryError", "MemoryError"}
    return known or "can't allocate memory" in str(cause) or "not enough memory" in str(cause)


def _raised_by_model(cause: Exception) -> bool:
    """Whether torch called the model after the last line of normprobe's own in the traceback.

    `normprobe.capture.function_mode` only hands on the calls that the model makes.
    """
    files = [Path(frame.filename) for frame in traceback.extract_tb(cause.__traceback__)]
    own = max(
        (i for i, file in enumerate(files) if _PACKAGE in file.parents and file.name != "function_mode.py"),
        default=-1,
    )
    return any(file.parts[-4:] == _CALLING for file in files[own:])


def _shapes(batch: Any) -> str:
    """The shapes of a batch in words."""
    if isinstance(batch, Mapping):
        return ", ".join(f"{name} {_shape(value)}" for name, value in batch.items())
    if isinstance(batch, list | tuple):
        return ", ".join(_shape(value) for value in batch)
    return _shape(batch)


def _shape(value: Any) -> str:
    kind = str(getattr(value, "dtype", type(value).__name__)).replace("torch.", "")
    return f"{kind} of shape {tuple(value.shape)}" if hasattr(value, "shape") else kind
