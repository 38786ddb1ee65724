"""What a stream can hold: the width of a terminal, and whether its encoding has signs beyond ASCII."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from normprobe.formatting import shorten_name, text_width
from normprobe.report.display_text import one_line_text

NARROWEST = 80
_WIDEST_PROSE = 120
_NARROWEST_NAME = 14
_SIGNS = "÷×…→–−━"
_SUPERSCRIPTS = "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"
_PLAIN = str.maketrans(
    {
        "÷": "/",
        "×": "x",
        "…": "...",
        "→": "->",
        "–": "-",
        "−": "-",
        "≥": ">=",
        "≤": "<=",
        "∞": "inf",
        "“": '"',
        "”": '"',
        "’": "'",
        "·": "-",
        "␣": " ",
        **dict(zip(_SUPERSCRIPTS, "-0123456789", strict=True)),
    }
)


@dataclass(frozen=True)
class Terminal:
    """The room there is.

    Attributes:
        width: columns, from 80; None where lines may be of any length, as in a file, a pipe or a notebook.
        unicode: whether `÷ × … →` can be shown; if not, `/ x ... ->` stand for them.
    """

    width: int | None
    unicode: bool

    @staticmethod
    def of(width: int | None, unicode: bool) -> Terminal:
        """The room of a terminal of so many columns; fewer than 80 count as 80."""
        return Terminal(None if width is None else max(width, NARROWEST), unicode)

    def show(self, text: str) -> str:
        """Write a text as this terminal can show it, without control characters."""
        clean = one_line_text(text)
        return clean if self.unicode else plain(clean)

    def name(self, layer: str, width: int | None) -> str:
        """A layer's name, shortened at the front to a number of columns where there is a limit."""
        shown = self.show(layer)
        if width is None or text_width(shown) <= width:
            return shown
        # In ASCII the ellipsis takes three columns, not one.
        return self.show(shorten_name(shown, width if self.unicode else width - 2))

    def names(self, layers: Sequence[str], others: int) -> tuple[list[str], int]:
        """Names for the first column of a table, and its width, two blanks at its end among it.

        Args:
            layers: the names.
            others: the columns that the rest of a line takes.
        """
        longest = max(text_width(self.show(layer)) for layer in layers) + 2
        room = longest
        if self.width is not None:
            # Where many sites leave no room a line is rather too long than without a name.
            room = min(longest, max(self.width - others, _NARROWEST_NAME))
        return [self.name(layer, room - 2) for layer in layers], room

    def wrap(self, text: str, indent: str = "", hanging: str = "") -> list[str]:
        """Break a text into lines between words; one line where there is no limit.

        Args:
            text: one paragraph.
            indent: before each line.
            hanging: behind that, before each line but the first.
        """
        shown = self.show(text)
        if self.width is None:
            return [indent + shown]
        return textwrap.wrap(
            shown,
            min(self.width, _WIDEST_PROSE),
            initial_indent=indent,
            subsequent_indent=indent + hanging,
            # A layer's name is left whole, to be copied.
            break_long_words=False,
            break_on_hyphens=False,
        )


def padded(text: str, width: int) -> str:
    """A text with blanks behind it; wide letters take two columns, which ljust does not know."""
    return text + " " * (width - text_width(text))


def stdout_width() -> int | None:
    """The columns of stdout where that is a terminal; None where it is a file, a pipe or a notebook."""
    if not sys.stdout.isatty():
        return None
    return max(shutil.get_terminal_size((NARROWEST, 24)).columns, NARROWEST)


def stdout_unicode() -> bool:
    """Whether stdout can show the signs that the report uses."""
    # A stream that has no encoding holds text as it is, as one in memory does.
    encoding = getattr(sys.stdout, "encoding", None)
    if encoding is None:
        return True
    try:
        _SIGNS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def plain(text: str) -> str:
    """Write a text in ASCII: signs by their usual stand-ins, other letters as escapes."""
    powers = re.sub(rf"(?<![{_SUPERSCRIPTS}])(?=[{_SUPERSCRIPTS}])", "^", text)
    return powers.translate(_PLAIN).encode("ascii", errors="backslashreplace").decode("ascii")
