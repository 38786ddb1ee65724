"""Exit status 3: what was asked for does not hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from normprobe.cli import printing
from normprobe.vocabulary import SEVERITIES

if TYPE_CHECKING:
    import pandas as pd

    from normprobe.recording import Recording

_Command = TypeVar("_Command", bound=Callable[..., Any])
_SEVERITIES = SEVERITIES[::-1]  # the mildest first
_DOES_NOT_HOLD = 3


def failing(*, with_baseline: bool) -> Callable[[_Command], _Command]:
    """The option that makes findings fail a command, which may have a baseline or not."""
    new = "; with a baseline, a new one" if with_baseline else ""
    return click.option(
        "--fail-on",
        type=click.Choice(_SEVERITIES),
        help=f"Exit with 3 if there is such a finding, or a worse one{new}.",
    )


def does_not_hold() -> NoReturn:
    """End the command: it ran, and what was asked for does not hold.

    Raises:
        Exit: always.
    """
    raise click.exceptions.Exit(_DOES_NOT_HOLD)


def exit_if_found(
    recording: Recording,
    findings: pd.DataFrame,
    fail_on: str | None,
    *,
    baseline: str | None = None,
    quiet: bool = False,
) -> None:
    """Exit with 3 if there is a finding of this severity or a worse one.

    Args:
        recording: where they were found.
        findings: those that there are; held against a baseline with their column `change`.
        fail_on: the severity; None never fails.
        baseline: what they were held against: then only new ones fail.
        quiet: whether nothing was printed yet, so that those that fail are printed here.

    Raises:
        Exit: there is one.
    """
    if fail_on is None:
        return
    severities = _SEVERITIES[_SEVERITIES.index(fail_on) :]
    failed = findings[findings["severity"].isin(severities)]
    if baseline is not None:
        failed = failed[failed["change"] == "new"]
    if failed.empty:
        return
    # On stderr: stdout may hold the document of --json.
    if quiet:
        printing.print_findings(recording, failed, err=True)
    new, against = ("new ", f" --baseline {baseline}") if baseline is not None else ("", "")
    worse = " or worse" if len(severities) > 1 else ""
    count = f"{len(failed):,} {new}finding{'' if len(failed) == 1 else 's'}"
    click.echo(f"Failed: {count} of severity {fail_on}{worse} (--fail-on {fail_on}{against})", err=True)
    does_not_hold()
