"""The command that compares two models or recordings."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normprobe.cli import printing
from normprobe.cli.error_lines import with_error_lines
from normprobe.cli.exit_status import does_not_hold
from normprobe.cli.load_or_measure import is_recording, recording_of
from normprobe.cli.options import Request, debug, is_written, measuring, quietly, request_of
from normprobe.cli.output_paths import check_folder
from normprobe.cli.progress import waiting
from normprobe.cli.settings import settings
from normprobe.loading.constants import DTYPES

if TYPE_CHECKING:
    from normprobe.comparison import Comparison
    from normprobe.divergence import StoredTensors
    from normprobe.recording import Recording

_OWN = ("dtype", "weights", "name")
"""Options that B may have of its own, as ``--dtype-b``."""


@dataclass(frozen=True)
class _Side:
    """One of the two: its recording, and what its model stores where there was a model."""

    recording: Recording
    stored: StoredTensors | None


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
@click.option("--no-report", is_flag=True, help="Write no report: answer and exit status only.")
@click.option("--json", "as_json", is_flag=True, help="The comparison as JSON on stdout.")
@click.option(
    "--fail-above",
    type=float,
    metavar="DB",
    help="Exit with 3 only if the error at a layer's output is above this, such as -30.",
)
@click.option("--dtype-b", type=click.Choice(DTYPES), help="The dtype of B, if not that of --dtype.")
@click.option("--weights-b", metavar="FILE", help="The weights of B, if not those of --weights.")
@click.option("--name-b", metavar="TEXT", help="What to call B.")
@quietly
@measuring
@settings
@debug
@with_error_lines
def compare(
    a: str,
    b: str,
    *,
    out: Path,
    no_report: bool,
    as_json: bool,
    fail_above: float | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Compare two models or recordings: which layer differs first, and where error arises.

    A and B are models as for `report`, run on the same data, or saved recordings. Exit status: 0 if they are
    equal up to rounding (of other data: up to what chance gives), 3 if not; with --fail-above 3 only if the
    largest error at a layer's output is larger.
    """
    if fail_above is not None and isnan(fail_above):
        raise click.UsageError("--fail-above is a number of decibels, such as -30")
    if not no_report:
        check_folder("--out", out)
    own = {name: options.pop(f"{name}_b") for name in _OWN}
    first, second = _sides(a, b, request_of(options), own, notes=not quiet)
    with waiting("Comparing"):
        # The module, as `compare` is this command here.
        from normprobe import comparison as library

        models = None if first.stored is None or second.stored is None else (first.stored, second.stored)
        comparison = library.compare(first.recording, second.recording, models=models)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        page = _print_and_write(comparison, None if no_report else out, quiet=quiet)
    if as_json:
        facts = {"report": None if page is None else str(page), "fail_above": fail_above}
        click.echo(comparison.to_json(**facts))
    _exit_if_failed(comparison, fail_above, quiet=quiet)


def _exit_if_failed(comparison: Comparison, fail_above: float | None, *, quiet: bool) -> None:
    """Exit with 3 if the two differ, or by more than is allowed; say what failed unless it was printed.

    Raises:
        Exit: they do.
    """
    if not comparison.fails(above=fail_above):
        return
    if fail_above is not None:
        from normprobe.divergence import error_above

        # The answer need not name it: the first layer that differs may differ by less than is allowed.
        what = error_above(comparison.differences, fail_above)
        click.echo(f"Failed: {what}, above --fail-above {fail_above:g}", err=True)
    elif quiet:
        click.echo(f"Failed: {comparison.verdict}", err=True)
    does_not_hold()


def _print_and_write(comparison: Comparison, out: Path | None, *, quiet: bool) -> Path | None:
    """Print the answer, and write the report if there is to be one."""
    if not quiet:
        printing.print_comparison(comparison)
    if out is None:
        return None
    from normprobe.report import COMPARISON_PAGE, comparison_title, earlier_report, replaced

    earlier = replaced(earlier_report(out, COMPARISON_PAGE), comparison_title(comparison.differences))
    with waiting("Writing   report"):
        page = comparison.report(out)
    if not quiet:
        printing.print_report_file(page, earlier)
    return page


def _sides(
    a: str, b: str, request: Request, own: dict[str, str | None], *, notes: bool
) -> tuple[_Side, _Side]:
    """The recordings of A and B; options are for those that are models.

    Args:
        a: a model or recording.
        b: the same.
        request: the options that both have.
        own: those that B has of its own; None where it has not.
        notes: whether to print what a reader should know of model and data.

    Raises:
        NormprobeError: one of them cannot be read, or its data do not fit.
    """
    changed: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
    refused = [f"--{name}-b" for name in changed if name != "name" and is_written(f"{name}_b")]
    if refused and is_recording(b):
        raise click.UsageError(f"{b} is a saved recording: {', '.join(refused)} cannot change it")
    # Options with two recordings are an error, which `recording_of` raises; with one they are the model's.
    mixed = is_recording(a) != is_recording(b)
    of_model = replace(request, written=())
    of_a, of_b = (of_model if mixed and is_recording(side) else request for side in (a, b))
    if "name" not in changed:
        # The name on the command line is that of A: B would have the same.
        changed["name"] = None
    # What one side alone stores cannot be held against anything.
    keeps = not is_recording(a) and not is_recording(b)
    # One after the other, each model released before the next is loaded: both may not fit together.
    first = _side(a, of_a, keeps, notes)
    second = _side(b, replace(of_b, **changed), keeps, notes)
    return _with_files_named(a, b, first, second)


def _side(name: str, request: Request, keeps: bool, notes: bool) -> _Side:
    """The recording that an argument names, and what its model stores if that is asked for."""
    stored: list[StoredTensors] = []

    def keep(module: Any) -> None:
        from normprobe.comparison import stored_tensors

        stored.append(stored_tensors(module))

    recording = recording_of(name, request, notes=notes, with_model=keep if keeps else None)
    return _Side(recording, stored[0] if stored else None)


def _with_files_named(a: str, b: str, first: _Side, second: _Side) -> tuple[_Side, _Side]:
    """Both sides; where they have one name, files are named that they were read from."""
    names = [str(side.recording.meta["name"]) for side in (first, second)]
    if names[0] != names[1] or a == b or not (is_recording(a) or is_recording(b)):
        return first, second
    found = []
    for given, side in ((a, first), (b, second)):
        name = side.recording.meta["name"]
        named = side.recording.annotate(name=f"{name} in {given}") if is_recording(given) else side.recording
        found.append(_Side(named, side.stored))
    return found[0], found[1]
