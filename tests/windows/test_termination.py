"""Runs that are killed: SIGTERM closes the open windows, and nothing of the handler stays."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normprobe
from benchmarks.killed import KINDS, kill_runs

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def in_a_child(call: Callable[[], None]) -> int:
    """Call in a forked process; its status as `os.waitpid` gives it."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            call()
        except SystemExit as error:
            os._exit(int(error.code or 0))
        except BaseException:
            os._exit(99)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def two_steps(folder: Path, ahead: Callable[[], Any] = lambda: None) -> None:
    """Two forwards in a window of many, then SIGTERM."""
    ahead()
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    with normprobe.Probe(model, window=100, out=folder) as probe:
        for step in range(2):
            model(torch.randn(5, 3))
            probe.step(step)
        terminate()
        model(torch.randn(5, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_whenever_a_run_is_killed_its_closed_windows_load(kind: str) -> None:
    found = kill_runs(kind, 3)
    assert (found.runs, found.unreadable, found.lost_windows, found.lost_steps) == (3, 0, 0, 0)
    assert found.wrong_status == 0


def test_sigterm_closes_the_open_window_and_ends_the_process(tmp_path: Path) -> None:
    assert os.WTERMSIG(in_a_child(lambda: two_steps(tmp_path))) == signal.SIGTERM
    assert normprobe.load(tmp_path).windows["last_step"].tolist() == [1]


def test_a_handler_of_the_users_is_called_and_may_go_on(tmp_path: Path) -> None:
    def ahead() -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: (tmp_path / "called").touch())

    assert in_a_child(lambda: two_steps(tmp_path / "run", ahead)) == 0
    assert (tmp_path / "called").exists()
    assert normprobe.load(tmp_path / "run").windows["forwards"].tolist() == [2, 1]


def test_a_handler_that_raises_leaves_the_block_as_any_error(tmp_path: Path) -> None:
    def leave(number: int, frame: Any) -> None:
        raise SystemExit(7)

    status = in_a_child(lambda: two_steps(tmp_path, lambda: signal.signal(signal.SIGTERM, leave)))
    assert os.WEXITSTATUS(status) == 7
    assert normprobe.load(tmp_path).windows["forwards"].tolist() == [2]


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    assert in_a_child(lambda: two_steps(tmp_path, lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))) == 0


class Terminated(nn.Module):
    """Between its layers the process is told to end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.norm(self.first(x))
        if self.calls == 3:
            terminate()
        out: Tensor = self.last(x)
        return out


def test_a_forward_under_way_is_measured_to_its_end(tmp_path: Path) -> None:
    def call() -> None:
        model = Terminated()
        with normprobe.Probe(model, window=100, out=tmp_path):
            for _ in range(5):
                model(torch.randn(5, 3))

    assert os.WTERMSIG(in_a_child(call)) == signal.SIGTERM
    assert normprobe.load(tmp_path).layers["calls"].tolist() == [3] * 6


def test_a_forked_process_writes_nothing_and_ends_at_sigterm(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    with normprobe.Probe(model, window=2, out=tmp_path) as probe:
        model(torch.randn(5, 3))
        child = os.fork()
        if child == 0:
            model(torch.randn(5, 3))
            probe.close_windows()
            terminate()
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
        assert list(tmp_path.iterdir()) == []
    assert normprobe.load(tmp_path).windows["forwards"].tolist() == [1]


@pytest.mark.parametrize("error", [False, True])
def test_the_handler_is_there_only_inside_a_block_that_writes(tmp_path: Path, error: bool) -> None:
    before = signal.getsignal(signal.SIGTERM)
    model = nn.Linear(3, 4)
    with normprobe.Probe(model):
        model(torch.randn(2, 3))
        assert signal.getsignal(signal.SIGTERM) is before
    try:
        with normprobe.Probe(model, out=tmp_path):
            model(torch.randn(2, 3))
            assert signal.getsignal(signal.SIGTERM) is not before
            if error:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_handler_that_took_over_since_stays(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    mine = lambda number, frame: None  # noqa: E731
    try:
        with normprobe.Probe(nn.Linear(3, 4), out=tmp_path) as probe:
            probe.model(torch.randn(2, 3))
            signal.signal(signal.SIGTERM, mine)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_no_handler_is_put_in_place(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    def work() -> None:
        with normprobe.Probe(nn.Linear(3, 4), out=tmp_path) as probe:
            probe.model(torch.randn(2, 3))
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
    assert len(normprobe.load(tmp_path).windows) == 1
