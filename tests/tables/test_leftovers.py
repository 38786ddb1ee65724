"""What a killed writer left is removed by the next one; what others may be writing is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from normprobe.report.files import write_atomically
from normprobe.tables.atomic_files import prefix_of_process, replace_file

pytestmark = pytest.mark.skipif(os.name != "posix", reason="asks the system whether a process is alive")


@pytest.fixture
def dead() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def of_process(prefix: str, process: int) -> str:
    return prefix_of_process(prefix).replace(f"-{os.getpid()}-", f"-{process}-") + "abc"


def test_only_what_dead_writers_left_goes(tmp_path: Path, dead: int) -> None:
    alive, own = of_process(".normprobe-", os.getppid()), of_process(".normprobe-", os.getpid())
    foreign = f".normprobe-00000000-{dead}-abc"
    for name in (of_process(".normprobe-", dead), alive, own, foreign, ".normprobe-old"):
        (tmp_path / name).write_text("half")
    replace_file(tmp_path / "a.csv", lambda handle: handle.write(b"whole"))
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        [alive, own, foreign, ".normprobe-old", "a.csv"]
    )


def test_a_killed_reports_folder_goes(tmp_path: Path, dead: int) -> None:
    left = tmp_path / of_process(".report-", dead) / "figures"
    left.mkdir(parents=True)
    (left / "half.png").write_text("half")
    write_atomically(tmp_path, lambda folder: "<html>", lambda name: False)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
