"""Progress: shown late, on a terminal only, and never in the way of what is worked through."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from normprobe.cli import progress

SHOWN_AGAIN = "\x1b[?25h"  # the cursor
ERASED = "\r\x1b[1A\x1b[2K"  # the line above


@pytest.fixture(autouse=True)
def _unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was shown before."""
    monkeypatch.setattr(progress, "_seen", threading.Event())


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody is there to see, and impatient."""
    monkeypatch.setattr(progress, "visible", lambda: True)
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the captured stream for a terminal


def slowly() -> Iterator[int]:
    for number in range(3):
        time.sleep(0.1)
        yield number


@pytest.mark.parametrize("total", [3, None])
def test_what_is_tracked_comes_through(
    terminal: None, total: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(progress.tracked(slowly(), "Measuring   3 texts", total)) == [0, 1, 2]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Measuring   3 texts" in shown.err


def interrupted() -> Iterator[int]:
    yield from slowly()
    raise KeyboardInterrupt


def test_an_interrupt_ends_the_display(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        list(progress.tracked(interrupted(), "Measuring", 9))
    assert capsys.readouterr().err.endswith(SHOWN_AGAIN + ERASED)
    time.sleep(0.2)
    assert capsys.readouterr().err == "", "no thread goes on drawing"


def test_what_is_quick_leaves_the_screen_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "visible", lambda: True)
    assert list(progress.tracked([1, 2], "Measuring", 2)) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_whoever_has_seen_one_line_sees_the_next_at_once(
    terminal: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(progress.tracked(slowly(), "Measuring", 3)) == [0, 1, 2]
    monkeypatch.setattr(progress, "_DELAY", 1000.0)
    capsys.readouterr()
    with progress.waiting("Writing   report"):
        time.sleep(0.2)
    assert "Writing   report" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "tty", "expected"),
    [({}, True, True), ({}, False, False), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, True, False)],
)
def test_when_it_is_visible(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], tty: bool, expected: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr.isatty", lambda: tty)
    assert progress.visible() is expected


def test_long_descriptions_keep_both_ends() -> None:
    short = progress._short("Loading   /a/very/long/path/to/some/checkpoints/model-of-today")
    assert len(short) == 42
    assert short.startswith("Loading   /a...")
    assert short.endswith("/model-of-today")
    assert progress._short("Loading   ./bert") == "Loading   ./bert"
