"""One file for a quantizer, and what it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from normprobe.errors import NormprobeError, RecordingError
from normprobe.tables.export import atomically
from normprobe.tables.frames import Tables
from normprobe.tables.quantizer_files.imatrix import importance_matrix, write_dat, write_gguf
from normprobe.tables.quantizer_files.selection import LINEAR, Selection, select
from normprobe.tables.quantizer_files.torch_files import abs_means, act_scales, observers, write_tensors
from normprobe.tables.unmeasured import check_measured
from normprobe.vocabulary import EXPORT_FORMATS, INPUT, OUTPUT

_SHOWN = 3
"""How many names a sentence lists."""


@dataclass(frozen=True)
class Export:
    """A file that was written, and what it lacks; prints as sentences.

    Attributes:
        path: the file.
        format: one of those of `Recording.export`.
        layers: names of the layers whose statistics it holds, as the recording has them.
        left_out: of each other layer that the format is for, what became of it, as the end of a sentence.
        unmasked: those of ``layers`` that no mask was found for, though the data have padding: what they read
            of it is in their numbers.
    """

    path: Path
    format: str
    layers: tuple[str, ...]
    left_out: Mapping[str, str]
    unmasked: tuple[str, ...]

    def __str__(self) -> str:
        """What the file holds, what it lacks, and where padding is in it, a line each."""
        noun = "layers" if self.format == "llm-compressor" else "Linear layers"
        total = len(self.layers) + len(self.left_out)
        reasons: dict[str, list[str]] = {}
        for layer, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(layer)
        lines = [f"{self.format} of {len(self.layers):,} of {total:,} {noun}"]
        lines += [
            f"{len(names):,} of {total:,} {noun} {reason}: not in the file ({_listed(names)})"
            for reason, names in reasons.items()
        ]
        if self.unmasked:
            lines.append(
                f"{len(self.unmasked):,} of {total:,} {noun} had no mask: padding that they read is in their "
                f"numbers ({_listed(self.unmasked)})"
            )
        return "\n".join(lines)


class _Content(NamedTuple):
    """What is to be written.

    Attributes:
        write: writes it into an open file.
        layers: those it holds.
        left_out: the others, with what became of them.
        unmasked: those with padding.
    """

    write: Callable[[Any], None]
    layers: tuple[str, ...]
    left_out: Mapping[str, str]
    unmasked: tuple[str, ...]


def write_export(tables: Tables, path: str | Path, form: str) -> Export:
    """Write the statistics of a recording in a quantizer's format.

    Args:
        tables: of the recording.
        path: the file; replaced at once or not at all.
        form: one of `EXPORT_FORMATS`.

    Raises:
        NormprobeError: ``form`` is none of these.
        NoSamplesError: nothing was measured.
        RecordingError: no layer can be in the file, a value is beyond float32, llama.cpp has no names for the
            model, the package ``gguf`` is missing, or the file cannot be written.
    """
    if form not in EXPORT_FORMATS:
        folder = f"; for a folder of tables call to_{form}" if form in ("csv", "parquet") else ""
        raise NormprobeError(f"format is one of {', '.join(EXPORT_FORMATS)}, got {form!r}{folder}")
    check_measured(tables)
    inputs = select(tables, INPUT)
    if not inputs.moments and not inputs.left_out:
        raise RecordingError(
            f"the recording has no Linear layer, and {form} is of their inputs; measure the model without "
            "layers= and kinds=, or with ones that take Linear layers in"
        )
    content = _CONTENTS[form](tables, inputs)
    if not content.layers:
        first, reason = next(iter(content.left_out.items()))
        raise RecordingError(
            f"no layer can be in the file: of {len(content.left_out)} the first, {first}, {reason}; the "
            "recording's ledger says of each whether it fired"
        )
    written = atomically(path, content.write)
    return Export(written, form, content.layers, content.left_out, content.unmasked)


def _of_tensors(make: Callable[[Selection], dict[str, Any]], tables: Tables, inputs: Selection) -> _Content:
    write = partial(write_tensors, make(inputs))
    return _Content(write, tuple(inputs.moments), inputs.left_out, inputs.unmasked)


def _of_observers(tables: Tables, inputs: Selection) -> _Content:
    # Features of other norms are channels, and need not be the last axis, which these observers take.
    outputs = select(tables, OUTPUT, (*LINEAR, "layer_norm", "rms_norm"))
    left_out = {**outputs.left_out, **inputs.left_out}
    layers = tuple(layer for layer in outputs.moments if layer not in left_out)
    write = partial(write_tensors, observers(inputs.without(left_out), outputs.without(left_out)))
    return _Content(write, layers, left_out, tuple(layer for layer in outputs.unmasked if layer in layers))


def _of_imatrix(write: Callable[[Any, Any], None], tables: Tables, inputs: Selection) -> _Content:
    matrix = importance_matrix(tables, inputs)
    unmasked = tuple(layer for layer in inputs.unmasked if layer not in matrix.left_out)
    return _Content(partial(write, matrix), matrix.layers, matrix.left_out, unmasked)


_CONTENTS: dict[str, Callable[[Tables, Selection], _Content]] = {
    "act-scales": partial(_of_tensors, act_scales),
    "awq": partial(_of_tensors, abs_means),
    "llm-compressor": _of_observers,
    "imatrix": partial(_of_imatrix, write_gguf),
    "imatrix-dat": partial(_of_imatrix, write_dat),
}


def _listed(names: list[str] | tuple[str, ...]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")
