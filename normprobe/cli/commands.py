"""The commands: each parses, calls public functions and prints."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from normprobe.cli import printing
from normprobe.cli.compare_command import compare
from normprobe.cli.error_lines import with_error_lines
from normprobe.cli.exit_status import exit_if_found, failing
from normprobe.cli.fit_command import fit
from normprobe.cli.load_or_measure import is_recording, recorded, recording_of
from normprobe.cli.options import Request, debug, grouping, measuring, quietly, request_of
from normprobe.cli.output_paths import check_file, check_folder
from normprobe.cli.parallel import begin_process
from normprobe.cli.progress import waiting
from normprobe.cli.report_command import report
from normprobe.cli.settings import settings
from normprobe.errors import NoLayersError, NormprobeError, RecordingError
from normprobe.vocabulary import EXPORT_FORMATS
from normprobe.windows.file_names import holds_windows

if TYPE_CHECKING:
    import pandas as pd

    from normprobe.recording import Recording

_PATH = click.Path(path_type=Path)
_FORMATS = ["csv", "parquet", *EXPORT_FORMATS]
_LARGE_CSV = 10e6  # bytes from which the other format is pointed out

# After \b click leaves the breaks of lines as they are.
_HELP = """What normalization does inside a network: every Linear and norm layer, before and after.

MODEL is a Hugging Face folder, hub id or .gguf file, or module.py:callable that returns an nn.Module.

\b
normprobe report ./model --data texts.txt       figures, findings and tables as one page
normprobe layers module.py:build --data x.npy   which layers fire, and why others do not

Exit status: 0; 1 error in the input; 2 wrong usage; 3 what was asked for does not hold (--fail-on);
130 stopped by Ctrl-C."""


@click.group(help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "--version", package_name="normprobe", prog_name="normprobe")
@click.pass_context
def main(context: click.Context) -> None:
    """What normalization does inside a network, from a terminal."""
    printing.escape_what_cannot_be_encoded()
    begin_process(context.invoked_subcommand)


@main.command()
@click.argument("model", metavar="MODEL|RECORDING")
@click.option(
    "--out",
    type=_PATH,
    required=True,
    metavar="DIR|FILE",
    help="Folder for the tables, or a quantizer's file.",
)
@click.option("--format", "form", type=click.Choice(_FORMATS), default="csv", show_default=True)
@click.option("--save", type=_PATH, metavar="FILE", help="Save the recording too.")
@failing(with_baseline=False)
@quietly
@measuring
@grouping
@settings
@debug
@with_error_lines
def export(
    model: str,
    out: Path,
    *,
    form: str,
    save: Path | None,
    fail_on: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Write the tables as CSV or Parquet, or a file that a quantizer reads."""
    _check_export(form, out)
    recording = recorded(model, options, save=save, quiet=quiet)
    written, lacks = _export_as(recording, form, out)
    if not quiet:
        printing.print_files(written, "Wrote")
        if lacks:
            click.echo(lacks)
        if save is not None:
            printing.print_files([save], "Saved")
    if fail_on is not None:
        exit_if_found(recording, recording.findings(), fail_on, quiet=quiet)


def _check_export(form: str, out: Path) -> None:
    """Check what an export needs before anything is measured.

    Raises:
        NormprobeError: the file or folder cannot be written, or a package is missing.
    """
    # Tables are several files in a folder, a quantizer reads one.
    (check_file if form in EXPORT_FORMATS else check_folder)("--out", out)
    if form.startswith("imatrix") and importlib.util.find_spec("gguf") is None:
        raise NormprobeError(f"--format {form} needs the names that gguf has: pip install gguf")


def _export_as(recording: Recording, form: str, out: Path) -> tuple[list[Path], str]:
    """Write a recording in a format; the files, and of a quantizer's file what it holds and lacks."""
    if form in EXPORT_FORMATS:
        export = recording.export(out, form)
        return [export.path], str(export)
    written = recording.to_csv(out) if form == "csv" else recording.to_parquet(out)
    size = sum(file.stat().st_size for file in written) if form == "csv" else 0
    hint = f"{size / 1e6:,.0f} MB of CSV: --format parquet takes a fraction of the space and of the time."
    return written, hint if size > _LARGE_CSV else ""


@main.command()
@click.argument("model", metavar="MODEL|RECORDING")
@measuring
@grouping
@settings
@debug
@with_error_lines
def layers(model: str, **options: Any) -> None:
    """List every Linear and norm layer after one forward: fired, or why not."""
    request = request_of(options)
    if not is_recording(model):
        printing.print_ledger(recording_of(model, request, forwards=1).ledger)
        return
    # Of a saved recording they choose lines: nothing is measured anew. Those of settings are for models.
    chosen = [name for name in ("layers", "kinds") if name in request.written]
    others = tuple(name for name in request.written if name not in chosen)
    ledger = recording_of(model, replace(request, written=others), forwards=1).ledger
    printing.print_ledger(_chosen(ledger, request, chosen))


def _chosen(ledger: pd.DataFrame, request: Request, by: Sequence[str]) -> pd.DataFrame:
    """The rows of a ledger whose layers are asked for.

    Raises:
        NoLayersError: there is none.
    """
    kept = [
        ("layers" not in by or any(fnmatchcase(str(name), glob) for glob in request.layers))
        and ("kinds" not in by or kind in request.kinds)
        for name, kind in zip(ledger["layer"], ledger["kind"], strict=True)
    ]
    if not any(kept):
        asked = " and ".join(f"--{name} {' '.join(getattr(request, name))}" for name in by)
        raise NoLayersError(f"{asked} matches none of the {len(kept):,} layers of this recording")
    return ledger[kept]


@main.command()
@click.argument("recordings", nargs=-1, required=True, type=_PATH, metavar="A B ...")
@click.option("--out", type=_PATH, required=True, metavar="FILE", help="The merged recording.")
@click.option("--force", is_flag=True, help="Merge recordings of different weights, too.")
@click.option(
    "--on-same-data",
    type=click.Choice(["error", "count_once"]),
    default="error",
    show_default=True,
    help="What to do with recordings of the same data that differ: refuse them, or count the first.",
)
@settings
@debug
@with_error_lines
def merge(
    recordings: tuple[Path, ...], out: Path, force: bool, on_same_data: Literal["error", "count_once"]
) -> None:
    """Merge recordings of parts of the data, or the windows of a run in a folder, into one of the whole."""
    if len(recordings) < 2 and not all(map(holds_windows, recordings)):
        raise click.UsageError("merge takes two recordings or more, or a folder with windows of a run")
    check_file("--out", out)
    with waiting("Merging"):
        from normprobe import recording

        # All before any is merged: that one cannot be read is said at once, by its name.
        parts = [recording.load(path) for path in recordings]
        _check_apart(recordings, parts)
        weights: Literal["error", "warn"] = "warn" if force else "error"
        whole = parts[0]
        if len(parts) > 1:
            whole = recording.merge(*parts, on_different_weights=weights, on_same_data=on_same_data)
        whole.save(out)
    for warning in whole.meta["warnings"]:
        click.echo(f"Note: {warning}", err=True)
    printing.print_files([out], "Merged")


def _check_apart(paths: tuple[Path, ...], recordings: list[Recording]) -> None:
    """Refuse files that hold the same part, or the same window of one, by their names.

    Raises:
        RecordingError: two of them do.
    """
    from normprobe.tables.merging.checks import check_apart  # which loads pandas

    for (path, one), (other_path, other) in combinations(zip(paths, recordings, strict=True), 2):
        try:
            check_apart([one.tables, other.tables])
        except RecordingError as error:
            raise RecordingError(
                f"{path} and {other_path} hold the same part, so its data would count twice; "
                "merge each part once"
            ) from error


@main.command()
@click.argument("check", required=False)
@debug
@with_error_lines
def explain(check: str | None) -> None:
    """Say what a finding means, what to do and when it is wrong; without CHECK, list all checks."""
    from normprobe.findings import explain as page

    click.echo(page(check))


main.add_command(report)
main.add_command(compare)
main.add_command(fit)
