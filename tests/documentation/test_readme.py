"""The README holds: short, its two commands to start, its words, its claims those of the pages behind it."""

from __future__ import annotations

import re

import normprobe
from tests.helpers.markdown import ROOT, blocks

README = (ROOT / "README.md").read_text()


def test_it_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) <= 160


def test_the_commands_to_start_are_two_and_continuous_integration_runs_the_second() -> None:
    commands = [block.text.strip() for block in blocks(README, "bash")]
    assert len(commands) == 2
    assert all(command.startswith("pip install torch==") and "\n" not in command for command in commands)
    assert commands[1].rsplit("&& ", 1)[1] in (ROOT / ".ci" / "run").read_text()


def test_the_words_are_explained_before_the_first_example() -> None:
    before, _ = README.split("```python", 1)
    words = re.findall(r"^- \*\*(\w+)\*\*:", before, flags=re.MULTILINE)
    assert words == ["layer", "site", "feature", "sample", "finding"]


def test_every_function_of_the_package_that_it_names_exists() -> None:
    named = set(re.findall(r"`normprobe\.([\w.]+)\(", README))
    assert len(named) > 6
    for name in named:
        held = normprobe
        for part in name.split("."):
            held = getattr(held, part)
        assert callable(held)


def test_the_survey_is_told_with_the_numbers_of_the_page_of_limits() -> None:
    told = README.split("## What it was tried on")[1].split("\n## ")[0]
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("limits.md", "checks.md"))
    numbers = set(re.findall(r"\d[\d,.]*\d", told))
    assert len(numbers) > 8
    assert [number for number in numbers if number not in pages] == []
