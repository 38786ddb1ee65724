"""What a terminal can hold: its width, and whether its encoding has signs beyond ASCII."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from normprobe.formatting import shorten_name, text_width
from normprobe.report.display_text import one_line_text

NARROWEST, WIDEST = 80, 120
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
        width: columns.
        unicode: whether `÷ × … →` can be shown; if not, `/ x ... ->` stand for them.
    """

    width: int
    unicode: bool

    def show(self, text: str) -> str:
        """Write a text as this terminal can show it, without control characters."""
        clean = one_line_text(text)
        return clean if self.unicode else plain(clean)

    def fits(self, text: str) -> bool:
        """Whether a text takes at most one line."""
        return text_width(self.show(text)) <= self.width

    def name(self, layer: str, width: int) -> str:
        """Shorten a layer's name at the front to a number of columns."""
        shown = self.show(layer)
        if text_width(shown) <= width:
            return shown
        # In ASCII the ellipsis takes three columns, not one.
        return self.show(shorten_name(shown, width if self.unicode else width - 2))

    def wrap(self, text: str, indent: str = "") -> list[str]:
        """Break a text into lines between words."""
        return textwrap.wrap(
            self.show(text),
            self.width,
            initial_indent=indent,
            subsequent_indent=indent,
            # A layer's name is left whole, to be copied.
            break_long_words=False,
            break_on_hyphens=False,
        )


def plain(text: str) -> str:
    """Write a text in ASCII: signs by their usual stand-ins, other letters as escapes."""
    powers = re.sub(rf"(?<![{_SUPERSCRIPTS}])(?=[{_SUPERSCRIPTS}])", "^", text)
    return powers.translate(_PLAIN).encode("ascii", errors="backslashreplace").decode("ascii")
