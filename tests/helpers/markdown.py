"""Pages of Markdown: their blocks of code, run in order, and what the blocks print."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```(\w+|\{[\w-]+\})[^\n]*\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: the word behind the fence.
        text: what is inside.
        span: where that begins and ends in the page.
    """

    language: str
    text: str
    span: tuple[int, int]


def name_of(page: Path) -> str:
    """The path of a page from the top of the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: str, language: str | None = None) -> list[Block]:
    """The fenced blocks of a page, in order, of one language or of all."""
    found = [Block(match[1], match[2], match.span(2)) for match in _BLOCK.finditer(page)]
    return [block for block in found if language in (None, block.language)]


def run(page: str, name: str) -> tuple[dict[str, object], list[tuple[Block, str]]]:
    """Run the Python of a page from its first block to its last, in one namespace.

    Args:
        page: its text.
        name: what errors call it.

    Returns:
        The namespace, and each block of text that follows a block of Python, with what that printed.
    """
    names: dict[str, object] = {"__name__": "page"}
    printed: list[tuple[Block, str]] = []
    output = ""
    before: Block | None = None
    for block in blocks(page):
        if block.language == "python":
            with redirect_stdout(io.StringIO()) as stdout:
                exec(compile(block.text, name, "exec"), names)
            output = stdout.getvalue()
        elif block.language == "text" and before is not None and before.language == "python":
            printed.append((block, output))
        before = block
    return names, printed


def with_outputs(page: str, printed: list[tuple[Block, str]]) -> str:
    """The page with what its blocks printed in the place of what it says they print."""
    for block, output in reversed(printed):
        start, end = block.span
        page = page[:start] + "\n".join(line.rstrip() for line in output.splitlines()) + "\n" + page[end:]
    return page
