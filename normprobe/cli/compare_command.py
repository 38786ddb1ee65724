"""The command that compares two models or recordings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normprobe.cli import printing
from normprobe.cli.error_lines import with_error_lines
from normprobe.cli.load_or_measure import is_recording, recording_of
from normprobe.cli.options import Request, debug, measuring, request_of
from normprobe.cli.output_paths import check_folder
from normprobe.cli.progress import waiting
from normprobe.loading.constants import DTYPES

if TYPE_CHECKING:
    from normprobe.recording import Recording

# As `commands._FOUND`, which cannot be imported: that module imports this one.
_DIFFERENT = 3
"""Exit status of a comparison that ran and found a difference."""


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("comparison"),
    show_default="comparison/",
    help="Folder for the report.",
)
@click.option("--dtype-b", type=click.Choice(DTYPES), help="The dtype of B, if not that of --dtype.")
@click.option("--weights-b", metavar="FILE", help="The weights of B, if not those of --weights.")
@measuring
@debug
@with_error_lines
def compare(a: str, b: str, out: Path, dtype_b: str | None, weights_b: str | None, **options: Any) -> None:
    """Compare two models or recordings: which layer differs first, and where error arises.

    A and B are models as for `report`, run on the same data, or saved recordings. Exit status: 0 if they are
    equal up to rounding (of other data: up to what chance gives), 3 if not.
    """
    check_folder("--out", out)
    request = request_of(options)
    first, second = _recordings(a, b, request, {"dtype": dtype_b, "weights": weights_b})
    with waiting("Comparing"):
        # The module, as `compare` is this command here.
        from normprobe import comparison as library

        comparison = library.compare(first, second)
    printing.print_comparison(comparison)
    with waiting("Writing   report"):
        page = comparison.report(out)
    printing.print_report_file(page)
    if comparison.first_divergence is not None:
        raise click.exceptions.Exit(_DIFFERENT)


def _recordings(a: str, b: str, request: Request, own: dict[str, str | None]) -> tuple[Recording, Recording]:
    """The recordings of A and B; options are for those that are models.

    Args:
        a: a model or recording.
        b: the same.
        request: the options that both have.
        own: those that B has of its own; None where it has not.

    Raises:
        NormprobeError: one of them cannot be read, or its data do not fit.
    """
    changed: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
    if changed and is_recording(b):
        given = ", ".join(f"--{name}-b" for name in changed)
        raise click.UsageError(f"{b} is a saved recording: {given} cannot change it")
    # Options with two recordings are an error, which `recording_of` raises; with one they are the model's.
    plain = Request.plain()
    mixed = is_recording(a) != is_recording(b)
    first = recording_of(a, plain if mixed and is_recording(a) else request)
    second = recording_of(b, plain if mixed and is_recording(b) else replace(request, **changed))
    return first, second
