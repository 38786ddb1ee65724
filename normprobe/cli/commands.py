"""The commands: each parses, calls public functions and prints."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normprobe.cli import printing
from normprobe.cli.compare_command import compare
from normprobe.cli.error_lines import with_error_lines
from normprobe.cli.load_or_measure import recording_of
from normprobe.cli.options import debug, measuring, request_of
from normprobe.cli.output_paths import check_file, check_folder
from normprobe.cli.progress import waiting
from normprobe.vocabulary import SEVERITIES

if TYPE_CHECKING:
    import pandas as pd

    from normprobe.recording import Recording

_PATH = click.Path(path_type=Path)
_SEVERITIES = SEVERITIES[::-1]  # the mildest first
_FOUND = 3
"""Exit status of a command that ran, and whose ``--fail-on`` is met."""

# After \b click leaves the breaks of lines as they are.
_HELP = """What normalization does inside a network: every Linear and norm layer, before and after.

MODEL is a Hugging Face folder, hub id or .gguf file, or module.py:callable that returns an nn.Module.

\b
normprobe report ./model --data texts.txt       figures, findings and tables as one page
normprobe layers module.py:build --data x.npy   which layers fire, and why others do not

Exit status: 0; 1 an error you can mend; 2 wrong usage; 3 what was asked for does not hold (--fail-on);
130 stopped by Ctrl-C."""
_FAIL_ON = click.option(
    "--fail-on",
    type=click.Choice(_SEVERITIES),
    help="Exit with 3 if there is such a finding, or a worse one.",
)


@click.group(help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "--version", package_name="normprobe", prog_name="normprobe")
def main() -> None:
    """What normalization does inside a network, from a terminal."""
    printing.escape_what_cannot_be_encoded()


@main.command()
@click.argument("model", metavar="MODEL|RECORDING")
@click.option(
    "--out", type=_PATH, default=Path("report"), show_default="report/", help="Folder for the report."
)
@click.option("--save", type=_PATH, metavar="FILE", help="Save the recording too.")
@click.option(
    "--panels", type=click.Choice(["all", "files"]), help="A panel for every norm, or as files too."
)
@click.option(
    "--recalibrate",
    type=_PATH,
    metavar="FILE",
    help="Also write the weights, with BatchNorm's running statistics of these data, to a new file.",
)
@click.option("--json", "as_json", is_flag=True, help="Findings as JSON on stdout, all else on stderr.")
@_FAIL_ON
@measuring
@debug
@with_error_lines
def report(
    model: str,
    out: Path,
    *,
    save: Path | None,
    panels: str | None,
    recalibrate: Path | None,
    as_json: bool,
    fail_on: str | None,
    **options: Any,
) -> None:
    """Write report.html, its figures and the tables as CSV; print the findings."""
    recording = _recorded(model, out, save, options, recalibrate=recalibrate)
    findings = recording.findings()
    # With --json stdout is the document and nothing else, for a program to read.
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        printing.print_summary(recording, findings)
        with waiting("Writing   report"):
            page = recording.report(out, panels=panels)
        printing.print_report_file(page)
        if save is not None:
            printing.print_files([save], "Saved ")
        if recalibrate is not None:
            printing.print_files([recalibrate], "Wrote ")
    if as_json:
        printing.print_json(recording, findings)
    _exit_if_found(findings, fail_on)


@main.command()
@click.argument("model", metavar="MODEL|RECORDING")
@click.option("--out", type=_PATH, required=True, help="Folder for the tables.")
@click.option("--format", "form", type=click.Choice(["csv", "parquet"]), default="csv", show_default=True)
@click.option("--save", type=_PATH, metavar="FILE", help="Save the recording too.")
@_FAIL_ON
@measuring
@debug
@with_error_lines
def export(model: str, out: Path, form: str, save: Path | None, fail_on: str | None, **options: Any) -> None:
    """Write the tables as CSV or Parquet."""
    recording = _recorded(model, out, save, options)
    written = recording.to_csv(out) if form == "csv" else recording.to_parquet(out)
    printing.print_files(written, "Wrote")
    if save is not None:
        printing.print_files([save], "Saved")
    if fail_on is not None:
        _exit_if_found(recording.findings(), fail_on)


@main.command()
@click.argument("model", metavar="MODEL|RECORDING")
@measuring
@debug
@with_error_lines
def layers(model: str, **options: Any) -> None:
    """List every Linear and norm layer after one forward: fired, or why not."""
    printing.print_ledger(recording_of(model, request_of(options), forwards=1).ledger)


@main.command()
@click.argument("recordings", nargs=-1, required=True, type=_PATH, metavar="A B ...")
@click.option("--out", type=_PATH, required=True, metavar="FILE", help="The merged recording.")
@click.option("--force", is_flag=True, help="Merge recordings of different weights, too.")
@debug
@with_error_lines
def merge(recordings: tuple[Path, ...], out: Path, force: bool) -> None:
    """Merge recordings of parts of the data into one of the whole."""
    if len(recordings) < 2:
        raise click.UsageError("merge takes two recordings or more")
    check_file("--out", out)
    with waiting("Merging"):
        from normprobe import recording

        parts = [recording.load(path) for path in recordings]
        whole = recording.merge(*parts, on_different_weights="warn" if force else "error")
        whole.save(out)
    for warning in whole.meta["warnings"]:
        click.echo(f"Note: {warning}", err=True)
    printing.print_files([out], "Merged")


@main.command()
@click.argument("check", required=False)
@debug
@with_error_lines
def explain(check: str | None) -> None:
    """Say what a finding means, what to do and when it is wrong; without CHECK, list all checks."""
    from normprobe.findings import explain as page

    click.echo(page(check))


main.add_command(compare)


def _recorded(
    model: str, out: Path, save: Path | None, options: dict[str, Any], *, recalibrate: Path | None = None
) -> Recording:
    """The recording of a command, saved if asked to; where to write is checked before anything runs.

    Raises:
        NormprobeError: an output cannot be written, or the recording cannot be had.
    """
    check_folder("--out", out)
    if save is not None:
        check_file("--save", save)
    recording = recording_of(model, request_of(options), recalibrate=recalibrate)
    if save is not None:
        # At once: what was measured is kept, should writing a report fail.
        recording.save(save)
    return recording


def _exit_if_found(findings: pd.DataFrame, fail_on: str | None) -> None:
    """Exit with 3 if there is a finding of this severity or a worse one."""
    if fail_on is None:
        return
    severities = _SEVERITIES[_SEVERITIES.index(fail_on) :]
    count = int(findings["severity"].isin(severities).sum())
    if count:
        # On stderr: stdout may hold the document of --json.
        click.echo(f"{count} of severity {' or '.join(severities)} (--fail-on {fail_on})", err=True)
        raise click.exceptions.Exit(_FOUND)
