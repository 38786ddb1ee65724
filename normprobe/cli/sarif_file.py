"""The option ``--sarif``: findings in the form that code scanning reads, at a file of the repository."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from normprobe.recording import Recording

# The first of these that is there stands for a model that no file of the repository is.
_STAND_INS = ("pyproject.toml", "README.md", "setup.py")


def write_sarif(
    path: Path,
    model: str,
    recording: Recording,
    findings: pd.DataFrame,
    *,
    select: tuple[Any, ...] | None,
) -> None:
    """Write findings as SARIF 2.1.0.

    Args:
        path: the file.
        model: the model or recording, as on the command line.
        recording: what was measured.
        findings: its findings.
        select: the checks that ran; None for all.

    Raises:
        RecordingError: the file cannot be written.
    """
    from normprobe.findings import to_sarif
    from normprobe.tables.export import atomically

    place, line = location(model, str(recording.meta["name"]))
    text = to_sarif(findings, recording.tables, uri=place, line=line, checks=select)
    atomically(path, lambda handle: handle.write(text.encode()))


def location(model: str, name: str) -> tuple[str, int]:
    """File, as seen from the repository's root, and line that stand for a model.

    Args:
        model: a model or recording, as on the command line.
        name: what the recording calls the model: the same, or where a recording was made from.
    """
    root = _root(Path.cwd())
    # A recording's own name first: it may have been made from a file of this repository.
    for spec in dict.fromkeys((name.partition(" + ")[0], model)):
        found = _file_of(spec)
        if found is not None and found[0].resolve().is_relative_to(root):
            return found[0].resolve().relative_to(root).as_posix(), found[1]
    there = next((file for file in _STAND_INS if (root / file).is_file()), _STAND_INS[0])
    return there, 1


def _root(folder: Path) -> Path:
    """The root of the repository that a folder is in; itself, where it is in none."""
    here = folder.resolve()
    return next((parent for parent in (here, *here.parents) if (parent / ".git").exists()), here)


def _file_of(spec: str) -> tuple[Path, int] | None:
    """The file, and the line in it, that a model on the command line comes from."""
    where, colon, attribute = spec.rpartition(":")
    candidates = [Path(spec), Path(spec) / "config.json"]
    if colon:
        candidates = [Path(where), Path(*where.split(".")).with_suffix(".py"), *candidates]
    file = next((path for path in candidates if path.is_file()), None)
    if file is None:
        return None
    return file, _line_of(file, attribute) if colon and file.suffix == ".py" else 1


def _line_of(file: Path, name: str) -> int:
    """Where a name is defined at the top of a module; 1 where that cannot be read."""
    try:
        nodes = ast.parse(file.read_text("utf-8")).body
    # The file was imported a moment ago, or is of a recording made elsewhere: no line is worth an error.
    except (SyntaxError, ValueError, OSError):
        return 1
    return next((node.lineno for node in nodes if getattr(node, "name", None) == name.partition(".")[0]), 1)
