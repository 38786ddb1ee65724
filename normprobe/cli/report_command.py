"""The command that reports on a model: page, tables and documents, and whether findings fail it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from normprobe.cli import printing
from normprobe.cli.error_lines import with_error_lines
from normprobe.cli.exit_status import exit_if_found, failing
from normprobe.cli.load_or_measure import is_recording, recorded
from normprobe.cli.options import CheckName, debug, grouping, measuring, quietly
from normprobe.cli.output_paths import check_file, check_folder
from normprobe.cli.progress import waiting
from normprobe.cli.settings import settings
from normprobe.errors import NormprobeError

if TYPE_CHECKING:
    import pandas as pd

    from normprobe.recording import Recording

_PATH = click.Path(path_type=Path)
_CHECK = CheckName()
_Command = TypeVar("_Command", bound=Callable[..., Any])
_OUTPUTS = [
    click.option(
        "--out", type=_PATH, default=Path("report"), show_default="report/", help="Folder for the report."
    ),
    click.option("--save", type=_PATH, metavar="FILE", help="Save the recording too."),
    click.option(
        "--panels", type=click.Choice(["all", "files"]), help="A panel for every norm, or as files too."
    ),
    click.option(
        "--tables",
        type=click.Choice(["auto", "csv", "parquet", "none"]),
        default="auto",
        show_default="features and samples as Parquet, the others as CSV",
        help="How the tables beside the report are written.",
    ),
    click.option(
        "--recalibrate",
        type=_PATH,
        metavar="FILE",
        help="Also write the weights, with BatchNorm's running statistics of these data, to a new file.",
    ),
    click.option("--no-report", is_flag=True, help="Write no report: findings and exit status only."),
    click.option("--json", "as_json", is_flag=True, help="Findings as JSON on stdout, all else on stderr."),
    click.option(
        "--sarif", type=_PATH, metavar="FILE", help="Also write the findings as SARIF, for code scanning."
    ),
    click.option(
        "--select", multiple=True, type=_CHECK, metavar="CHECK", help="Only this check; may be repeated."
    ),
    click.option(
        "--ignore", multiple=True, type=_CHECK, metavar="CHECK", help="Not this check; may be repeated."
    ),
    click.option(
        "--baseline", type=_PATH, metavar="FILE", help="A saved recording: say which findings are new."
    ),
]


@dataclass(frozen=True)
class _Outputs:
    """The options of `report` beside those of a measurement; their help says what they are."""

    out: Path
    save: Path | None
    panels: str | None
    tables: str
    recalibrate: Path | None
    no_report: bool
    as_json: bool
    sarif: Path | None
    select: tuple[str, ...]
    ignore: tuple[str, ...]
    baseline: Path | None
    quiet: bool


def _writing(command: _Command) -> _Command:
    """Add the options of what is written."""
    return reduce(lambda wrapped, option: option(wrapped), reversed(_OUTPUTS), command)


@click.command()
@click.argument("model", metavar="MODEL|RECORDING")
@_writing
@failing(with_baseline=True)
@quietly
@measuring
@grouping
@settings
@debug
@with_error_lines
def report(model: str, *, fail_on: str | None, **options: Any) -> None:
    """Write report.html, its figures and tables; print the findings."""
    # What is left in `options` is of the measurement.
    outputs = _Outputs(**{name: options.pop(name) for name in _Outputs.__dataclass_fields__})
    checks = _checks(outputs)
    baseline = _baseline(outputs)
    if not outputs.no_report:
        check_folder("--out", outputs.out)
    if outputs.sarif is not None:
        check_file("--sarif", outputs.sarif)
    recording = recorded(
        model, options, save=outputs.save, recalibrate=outputs.recalibrate, quiet=outputs.quiet
    )
    # Once, for text, page, documents and exit status: all of them are about the same findings.
    findings = _held_against(recording, baseline, outputs, checks)
    notes = _baseline_notes(recording, baseline)
    for note in () if outputs.quiet else notes:
        click.echo(f"Note: {note}", err=True)
    with _text_stream(outputs):
        _print_and_write(recording, findings, outputs, checks, saved=is_recording(model))
    page = None if outputs.no_report else outputs.out / "report.html"
    _write_documents(model, recording=recording, findings=findings, outputs=outputs, page=page, notes=notes)
    if fail_on is not None:
        from normprobe.findings.json_document import present_and_gone

        here = present_and_gone(findings)[0]
        exit_if_found(recording, here, fail_on, baseline=_name(outputs), quiet=outputs.quiet)


def _name(outputs: _Outputs) -> str | None:
    return None if outputs.baseline is None else str(outputs.baseline)


def _checks(outputs: _Outputs) -> tuple[Any, ...] | None:
    """The checks to run; None for all."""
    if not outputs.select and not outputs.ignore:
        return None
    from normprobe.findings import selected

    return selected(outputs.select, outputs.ignore)


def _baseline(outputs: _Outputs) -> Recording | None:
    """The recording to hold findings against.

    Raises:
        RecordingError: it cannot be read.
    """
    if outputs.baseline is None:
        return None
    # Before anything runs: that it cannot be read is known before a model is loaded for minutes.
    from normprobe.recording import load

    return load(outputs.baseline)


def _held_against(
    recording: Recording, baseline: Recording | None, outputs: _Outputs, checks: tuple[Any, ...] | None
) -> pd.DataFrame:
    """The findings, each with whether it is new where there is a baseline.

    Raises:
        NormprobeError: the baseline is of another model.
    """
    with waiting("Looking for findings"):
        findings = recording.findings(checks)
    if baseline is None:
        return findings
    # By names alone: a layer added since is no other model.
    names, before = set(recording.ledger["layer"]), set(baseline.ledger["layer"])
    if not names & before:
        raise NormprobeError(
            f"--baseline {outputs.baseline} is of another model ({baseline.meta['name']}): none of its "
            f"{len(before):,} layers is among the {len(names):,} of {recording.meta['name']}"
        )
    from normprobe.findings import changes

    return changes(findings, baseline.findings(checks))


def _baseline_notes(recording: Recording, baseline: Recording | None) -> list[str]:
    """What limits what a baseline says of this recording."""
    if baseline is None:
        return []
    from normprobe.findings.baseline import other_data

    data = baseline.meta["data"]
    differ = other_data(recording.tables, baseline.tables)
    return [f"the baseline saw other data{f' ({data})' if data else ''}"] if differ else []


def _text_stream(outputs: _Outputs) -> AbstractContextManager[Any]:
    """Where text goes: with --json stdout is the document and nothing else, for a program to read."""
    return redirect_stdout(sys.stderr) if outputs.as_json else nullcontext()


def _print_and_write(
    recording: Recording,
    findings: pd.DataFrame,
    outputs: _Outputs,
    checks: tuple[Any, ...] | None,
    *,
    saved: bool,
) -> None:
    """Print the findings and write the report, and say which files were written.

    Args:
        recording: what was measured.
        findings: its findings.
        outputs: what to print and write.
        checks: those that ran; None for all.
        saved: whether the recording is a saved one, whose notes nothing has printed yet.
    """
    if not outputs.quiet:
        printing.print_summary(recording, findings, baseline=_name(outputs), notes=saved)
    if not outputs.no_report:
        from normprobe.report import earlier_report, replaced

        earlier = replaced(earlier_report(outputs.out), str(recording.meta["name"]))
        with waiting("Writing   report"):
            page = recording.report(outputs.out, panels=outputs.panels, tables=outputs.tables, checks=checks)
        if not outputs.quiet:
            printing.print_report_file(page, earlier)
    if outputs.quiet:
        return
    if outputs.save is not None:
        printing.print_files([outputs.save], "Saved ")
    if outputs.recalibrate is not None:
        printing.print_files([outputs.recalibrate], "Wrote ")


def _write_documents(
    model: str,
    *,
    recording: Recording,
    findings: pd.DataFrame,
    outputs: _Outputs,
    page: Path | None,
    notes: list[str],
) -> None:
    """Write the findings for programs: SARIF into a file, JSON to stdout."""
    from normprobe.findings import to_json

    if outputs.sarif is not None:
        from normprobe.cli.sarif_file import write_sarif

        write_sarif(outputs.sarif, model, recording, findings, select=_checks(outputs))
        if not outputs.quiet:
            with _text_stream(outputs):
                printing.print_files([outputs.sarif], "Wrote ")
    if outputs.as_json:
        facts: dict[str, Any] = {"report": None if page is None else str(page)}
        if notes:
            facts["notes"] = [*map(str, recording.meta["warnings"]), *notes]
        if outputs.baseline is not None:
            facts["baseline"] = str(outputs.baseline)
        click.echo(to_json(findings, recording.tables, **facts))
