"""Writing a report so that a reader finds the old one or the new one, never half of one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from normprobe.errors import RecordingError
from normprobe.tables.atomic_files import prefix_of_process, remove_leftovers, replace_file

_PREFIX = ".report-"
PAGE = "report.html"
FIGURES = "figures"


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
