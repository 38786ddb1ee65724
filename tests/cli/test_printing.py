"""What goes to stdout: its width, its signs, and colour only where a terminal shows it."""

from __future__ import annotations

import io
import sys

import pytest

from normprobe.cli import printing
from normprobe.recording import Recording
from normprobe.report import stdout_unicode, stdout_width
from tests.helpers.report_models import finding, findings_of, record, stack


@pytest.mark.parametrize(("columns", "width"), [("40", 80), ("80", 80), ("100", 100), ("240", 240)])
def test_the_width_is_the_terminals_from_80(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", columns)
    assert stdout_width() == width


def test_what_is_no_terminal_has_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    monkeypatch.setenv("COLUMNS", "80")
    assert stdout_width() is None


@pytest.mark.parametrize(("encoding", "all_signs"), [("utf-8", True), ("ascii", False), ("latin-1", False)])
def test_signs_beyond_ascii_need_an_encoding_that_has_them(
    monkeypatch: pytest.MonkeyPatch, encoding: str, all_signs: bool
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert stdout_unicode() is all_signs


@pytest.mark.parametrize(
    ("terminal", "settings", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_only_a_terminal_gets_colour(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, settings: dict[str, str], coloured: bool
) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="utf-8")
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    rows = findings_of(finding("layers.1.norm", severity="warning"), finding("layers.0.norm"))
    printing.print_summary(Recording(record(stack(2))), rows)
    stream.flush()
    text = written.getvalue().decode()
    assert "warning  Massive activations" in text.replace("\x1b[33m\x1b[1m", "").replace("\x1b[0m", "")
    assert ("\x1b[" in text) is coloured
