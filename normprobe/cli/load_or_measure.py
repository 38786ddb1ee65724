"""A recording from what the command line names: a saved one, or a model that is loaded and run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

import click

from normprobe.cli.options import Request, request_of
from normprobe.cli.output_paths import check_file
from normprobe.cli.parallel import end_others, on_all_processes
from normprobe.cli.progress import tracked, waiting
from normprobe.cli.recalibrate_option import check_recalibration, recalibrate_into
from normprobe.errors import ModelError, NormprobeError
from normprobe.loading.constants import PICKLE_SUFFIXES
from normprobe.windows.file_names import holds_windows

if TYPE_CHECKING:
    from normprobe.loading.inputs import Inputs
    from normprobe.loading.models import LoadedModel
    from normprobe.recording import Recording

_NOT_A_RECORDING = PICKLE_SUFFIXES | {".gguf", ".py", ".safetensors", ".onnx"}
"""Endings of files that are models, or are taken for one, and get a better message as such."""

_PACKAGE = __name__.partition(".")[0]
_CALLS_MODULES = "torch.nn.modules.module"
WITHIN_MODEL = frozenset({"normprobe.capture.functions.function_mode", "normprobe.layers.norms.replacements"})
"""Modules of normprobe whose functions run within a model's own computation: the function mode, which hands
on the calls that the model makes, and the norms that `swap_norms` puts into it.
"""


def is_recording(name: str) -> bool:
    """Whether an argument names a saved recording, or the windows of a run, rather than a model."""
    path = Path(name).expanduser()
    if path.is_dir():
        return holds_windows(path)
    # A misspelt path of a recording is to fail as such, not as a model that the hub lacks.
    return path.suffix == ".normprobe" or (path.is_file() and path.suffix.lower() not in _NOT_A_RECORDING)


def recorded(
    name: str,
    options: dict[str, Any],
    *,
    save: Path | None,
    recalibrate: Path | None = None,
    quiet: bool = False,
) -> Recording:
    """The recording of a command, saved if asked to; where to is checked before anything runs.

    Args:
        name: the model or recording, as on the command line.
        options: those of a measurement.
        save: where to save it.
        recalibrate: where to write the model's weights with running statistics of the same data.
        quiet: whether to print no notes.

    Raises:
        NormprobeError: an output cannot be written, or the recording cannot be had.
    """
    if save is not None:
        check_file("--save", save)
    if is_recording(name):
        end_others()
    given = request_of(options)
    recording = recording_of(name, given, recalibrate=recalibrate, notes=not quiet, sharded=True)
    if save is not None:
        # At once: what was measured is kept, should writing a report fail.
        recording.save(save)
    return recording


def recording_of(
    name: str,
    request: Request,
    *,
    forwards: int | None = None,
    recalibrate: Path | None = None,
    notes: bool = True,
    with_model: Callable[[Any], None] | None = None,
    sharded: bool = False,
) -> Recording:
    """The recording that an argument names, loaded; or of the model that it names, measured.

    Args:
        name: the model or recording, as on the command line.
        request: the options.
        forwards: stop after so many batches; None runs all.
        recalibrate: where to write the model's weights with running statistics of the same data.
        notes: whether to print what a reader should know of model and data.
        with_model: called with the model once it was measured, if it is none of a saved recording.
        sharded: whether processes have a share of the data each, where there are several.

    Raises:
        NormprobeError: the recording, model or data cannot be read, or do not fit together.
    """
    if recalibrate is not None:
        check_recalibration(name, is_recording(name), recalibrate)
    if not is_recording(name):
        return measure(
            name,
            request,
            forwards=forwards,
            recalibrate=recalibrate,
            notes=notes,
            with_model=with_model,
            sharded=sharded,
        )
    # Its name is nothing that was measured.
    given = [option for option in request.given() if option != "--name"]
    if given:
        raise click.UsageError(f"{name} is a saved recording: {', '.join(given)} cannot change it")
    # Imported inside: what a recording needs takes a second, which the progress line is to show.
    with waiting(f"Loading   {name}"):
        from normprobe.recording import load

        recording = load(Path(name).expanduser())
    return recording if request.name is None else recording.annotate(name=request.name)


def measure(
    name: str,
    request: Request,
    *,
    forwards: int | None = None,
    recalibrate: Path | None = None,
    notes: bool = True,
    with_model: Callable[[Any], None] | None = None,
    sharded: bool = False,
) -> Recording:
    """Load a model, run its data through it, and return the recording.

    Args:
        name: the model, as on the command line.
        request: the options.
        forwards: stop after so many batches; None runs all.
        recalibrate: where to write the model's weights with running statistics of the same data.
        notes: whether to print what a reader should know of model and data.
        with_model: called with the model once it was measured.
        sharded: whether processes have a share of the data each, where there are several.

    Raises:
        NormprobeError: the model or data cannot be read, or do not fit together.
    """
    loaded: list[tuple[LoadedModel, Inputs]] = []

    def measured(shard: tuple[int, int] | None) -> Recording:
        from normprobe.loading.models import without_bars

        loaded.append(_load(name, request))
        with without_bars():
            return _run(*loaded[0], request, forwards, shard)

    recording = on_all_processes(measured) if sharded else measured(None)
    model, inputs = loaded[0]
    from normprobe.loading.models import without_bars

    with without_bars():
        if with_model is not None:
            with_model(model.module)
        if recalibrate is not None:
            recalibrate_into(recalibrate, model, request)
    # Only now: an error is to be the one line that is printed.
    said = (*model.warnings, *inputs.warnings, *recording.meta["warnings"]) if notes else ()
    for warning in dict.fromkeys(said):
        click.echo(f"Note: {warning}", err=True)
    return recording


def _load(name: str, request: Request) -> tuple[LoadedModel, Inputs]:
    """The model and its data.

    Raises:
        NormprobeError: one of them cannot be read, or they do not fit together.
    """
    # Imported inside: torch and transformers take seconds, which the progress line is to show.
    from normprobe.report.garbage import uncollected

    with waiting(f"Loading   {name}"), uncollected():
        from normprobe.loading.inputs import check_data, load_inputs
        from normprobe.loading.models import load_model, without_bars

        # First: that a file is not there is known before a model is loaded for minutes.
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
    return model, inputs


def _run(
    model: LoadedModel,
    inputs: Inputs,
    request: Request,
    forwards: int | None,
    shard: tuple[int, int] | None,
) -> Recording:
    """Record a model on its inputs.

    Raises:
        NormprobeError: the model, or the data, cannot be run.
    """
    from normprobe.probe import record

    # After loading: what the page calls the time of measuring is that of the forwards.
    started = time.perf_counter()
    total = inputs.total if forwards is None else forwards
    batches = _Batches(inputs, forwards)
    try:
        recording = record(
            model.module,
            tracked(batches, f"Measuring   {inputs.description.partition(' from ')[0]}", total),
            **_options(model, request),
            labels=inputs.labels,
            shard=shard,
        )
    except NormprobeError:
        raise
    except Exception as cause:
        raise _explained(cause, model, batches.latest) from cause
    return recording.annotate(
        name=request.name or shown_name(model.name, request.weights),
        weights=request.weights,
        data=inputs.description,
        unit=inputs.unit,
        example_unit=inputs.example_unit,
        seconds=time.perf_counter() - started,
        warnings=[*recording.meta["warnings"], *model.warnings, *inputs.warnings],
    )


def _options(model: LoadedModel, request: Request) -> dict[str, Any]:
    """The options of a measurement that a request names, as `record` takes them."""
    return {
        "layers": request.layers or None,
        "kinds": request.kinds or None,
        "residual": request.residual,
        "samples": request.samples,
        "groups": _groups(model, request),
        "experts": request.experts,
        "kurtosis": request.kurtosis,
        "quantiles": request.quantiles,
    }


def _groups(model: LoadedModel, request: Request) -> Any:
    """How samples are told apart: of special tokens the tokenizer knows more than the configuration."""
    from normprobe.loading.inputs.processors import has_tokenizer, load_tokenizer

    # A model of no folder or hub id has none.
    special = request.groups == "special" and model.source is not None and has_tokenizer(model)
    return load_tokenizer(model) if special else request.groups


def shown_name(model: str, weights: str | None) -> str:
    """What a model is called: as on the command line, with the file of its weights if it was given one."""
    return model if weights is None else f"{model} + {weights}"


class _Batches:
    """The first batches of inputs, anew in each iteration.

    Attributes:
        latest: the batch handed out last, for the message if the model fails on it.
    """

    def __init__(self, inputs: Inputs, limit: int | None) -> None:
        self.latest: Any = None
        self._inputs = inputs
        self._limit = limit

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self._inputs.batches):
            if number == self._limit:
                return
            self.latest = batch
            yield batch


def _explained(cause: Exception, model: LoadedModel, batch: Any) -> Exception:
    """The error to raise for one that came up while the model ran on a batch; itself, where it is ours."""
    shapes = _shapes(batch)
    # Cut, as an error may repeat all that it was given.
    text = " ".join(str(cause).split())[:300]
    if _is_out_of_memory(cause):
        return ModelError(
            f"out of memory on a batch of {shapes}; "
            "try a smaller --batch-size, shorter data or a smaller --dtype"
        )
    if not raised_by_model(cause):
        return cause
    return ModelError(
        f"the forward of {type(model.module).__name__} raised {type(cause).__name__}: {text}; "
        f"it was given {shapes}; do the data fit the model?"
    )


def _is_out_of_memory(cause: Exception) -> bool:
    """Whether memory ran out, on any device; torch's CPU allocator raises a plain `RuntimeError`."""
    known = type(cause).__name__ in {"OutOfMemoryError", "MemoryError"}
    return known or "can't allocate memory" in str(cause) or "not enough memory" in str(cause)


def raised_by_model(cause: Exception) -> bool:
    """Whether an error is the model's, not normprobe's, by the modules that its traceback passes.

    Torch calls modules, normprobe's hooks run inside such a call, and the model may be in turn inside one of
    `WITHIN_MODEL`. So the error is the model's if torch called a module after the last function of normprobe
    that is not of these. Modules are known by name: files move.
    """
    # The traceback runs from the caller inwards: the last entry is where the error arose.
    modules = [str(frame.f_globals.get("__name__", "")) for frame, _ in walk_tb(cause.__traceback__)]
    own = [
        index
        for index, module in enumerate(modules)
        if module.partition(".")[0] == _PACKAGE and module not in WITHIN_MODEL
    ]
    return _CALLS_MODULES in modules[max(own, default=-1) + 1 :]


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
