"""The command that says whether a format of few bits fits what layers read and write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from normprobe.cli import printing
from normprobe.cli.error_lines import with_error_lines
from normprobe.cli.load_or_measure import is_recording, recorded
from normprobe.cli.options import debug, measuring
from normprobe.cli.output_paths import check_file, check_folder
from normprobe.cli.settings import settings
from normprobe.vocabulary import NUMBER_FORMATS

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("model", metavar="MODEL|RECORDING")
@click.option("--format", "form", type=click.Choice(NUMBER_FORMATS), required=True)
@click.option("--out", type=_PATH, metavar="DIR", help="Also write the whole table there, as fit.csv.")
@click.option("--save", type=_PATH, metavar="FILE", help="Save the recording too.")
@measuring
@settings
@debug
@with_error_lines
def fit(model: str, *, form: str, out: Path | None, save: Path | None, **options: Any) -> None:
    """Say which layers a format of few bits fits worst: headroom, values lost, noise in dB."""
    if out is not None:
        check_folder("--out", out)
    if save is not None:
        check_file("--save", save)
    # What becomes of small values takes counts; a saved recording has them or has not.
    measured = options if is_recording(model) else {**options, "quantiles": True}
    recording = recorded(model, measured, save=save)
    table = recording.fit(form)  # type: ignore[arg-type]  # one of the choices above
    printing.print_fit(table)
    if out is not None:
        from normprobe.tables.export import write_csv  # which loads pandas

        printing.print_files(write_csv({"fit": table}, out), "Wrote")
    if save is not None:
        printing.print_files([save], "Saved")
