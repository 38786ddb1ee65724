"""Writing a report so that a reader finds the old one or the new one, never half of one, and knows which."""

from __future__ import annotations

import html
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from normprobe.errors import RecordingError
from normprobe.tables.atomic_files import prefix_of_process, remove_leftovers, replace_file

_PREFIX = ".report-"
PAGE = "report.html"
COMPARISON_PAGE = "comparison.html"
FIGURES = "figures"
COMPARISON_FIGURE = "divergence_profile"
_MARKER = re.compile(r'<meta name="normprobe" content="([^"]*)">')
_OLDER_TABLES = ("layers.csv", "features.csv", "samples.csv", "ledger.csv", "findings.csv")
"""What reports of normprobe 0.2 and before wrote, whose pages do not say."""


def write_atomically(
    directory: Path, build: Callable[[Path], str], drawn: Callable[[str], bool], name: str = PAGE
) -> Path:
    """Build a report beside its place, then move it there, the page last.

    Args:
        directory: the report's folder; it and its parents are created.
        build: receives an empty folder for the figures and returns the page.
        drawn: whether a file in the folder of figures has the name of one that a page of this kind draws.
        name: of the page.

    Returns:
        The path of the page. Figures that an earlier report left go; all else in the folder stays.

    Raises:
        RecordingError: the folder is a file or cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers(directory, _PREFIX)
        # In the same folder, so that moving is a rename: within one file system it is whole or not at all.
        with tempfile.TemporaryDirectory(prefix=prefix_of_process(_PREFIX), dir=directory) as workshop:
            return _fill(directory, Path(workshop), build, drawn, name)
    except (FileExistsError, NotADirectoryError) as error:
        raise RecordingError(
            f"the report needs a folder, but {str(directory)!r} is a file or lies below one. "
            "Name another folder, or move the file away."
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise RecordingError(
            f"the report cannot be written to {str(directory)!r}: {reason}. "
            "Make the folder writable and check the space left, or name another folder."
        ) from error


def _fill(
    directory: Path, workshop: Path, build: Callable[[Path], str], drawn: Callable[[str], bool], name: str
) -> Path:
    """Build in the workshop, then move: figures first, so that no page names one that is not there yet."""
    made_in = workshop / FIGURES
    made_in.mkdir()
    # Half a surrogate pair in a name or message has no UTF-8: it is shown as an escape.
    page = build(made_in).encode("utf-8", errors="backslashreplace")
    made = sorted(made_in.iterdir())
    # No empty folder: it would look as if figures had been lost.
    if made:
        (directory / FIGURES).mkdir(exist_ok=True)
    for file in made:
        file.replace(directory / FIGURES / file.name)
    target = directory / name
    replace_file(target, lambda handle: handle.write(page))
    # Last: up to here a reader may have the old page open.
    _remove_stale(directory / FIGURES, {file.name for file in made}, drawn)
    return target


def _remove_stale(figures: Path, made: set[str], drawn: Callable[[str], bool]) -> None:
    """Remove what an earlier page drew and this one did not: it would stand beside a page of other data."""
    if not figures.is_dir():
        return
    for file in figures.iterdir():
        if drawn(file.name) and file.name not in made and file.is_file():
            file.unlink()
    if not any(figures.iterdir()):
        figures.rmdir()


@dataclass(frozen=True)
class Report:
    """A report in a folder.

    Attributes:
        page: its page.
        name: what it is of; "" where the page does not say.
        tables: names of the tables that were written with it.
        made: when it was written, in local time.
    """

    page: Path
    name: str
    tables: tuple[str, ...]
    made: datetime


def marker(name: str, tables: Sequence[str]) -> str:
    """What a page says of itself for the next report in its folder."""
    return json.dumps({"name": name, "tables": list(tables)})


def earlier_report(directory: Path, page: str = PAGE) -> Report | None:
    """The report that a folder holds, or None; it may be of normprobe before 0.3, which left no marker."""
    path = directory / page
    try:
        made = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
        with path.open(encoding="utf-8", errors="replace") as file:
            head = file.read(1 << 16)
    except OSError:
        return None
    found = _MARKER.search(head)
    if found is None:
        return Report(path, "", _OLDER_TABLES if page == PAGE else (), made)
    try:
        said = json.loads(html.unescape(found[1]))
        return Report(path, str(said["name"]), tuple(map(str, said["tables"])), made)
    except (ValueError, TypeError, KeyError):
        return Report(path, "", (), made)


def report_files(page: Path) -> list[Path]:
    """The files of a report that a page says it is of, the page first: its tables, and the figures."""
    known = earlier_report(page.parent, page.name)
    tables = [page.parent / name for name in (known.tables if known is not None else ())]
    of_comparison = page.name == COMPARISON_PAGE
    figures = [
        file
        for file in sorted((page.parent / FIGURES).glob("*"))
        if (file.stem == COMPARISON_FIGURE) is of_comparison
    ]
    return [file for file in (page, *tables, *figures) if file.is_file()]


def replaced(earlier: Report | None, name: str) -> str:
    """The sentence on an earlier report of something else, or ""."""
    if earlier is None or earlier.name == name:
        return ""
    today = earlier.made.date() == datetime.now().astimezone().date()
    when = f"{earlier.made:%H:%M}" if today else f"{earlier.made:%Y-%m-%d %H:%M}"
    return f"replaced the report of {earlier.name or 'another run'} of {when}"


def remove_tables(directory: Path, earlier: Report | None, written: Sequence[str]) -> None:
    """Remove the tables of an earlier report that the new one has not replaced: they are of another run."""
    for name in earlier.tables if earlier is not None else ():
        # Only names without a folder: what a page says is not to be believed.
        if name not in written and name == Path(name).name and Path(name).suffix in (".csv", ".parquet"):
            (directory / name).unlink(missing_ok=True)
