"""The text of a recording or a comparison as an object that prints well in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from normprobe.report.terminal.lines import stdout_unicode, stdout_width


@dataclass(frozen=True, repr=False, eq=False)
class Summary:
    """A text that is laid out when it is printed, for the stream that it goes to.

    `print(summary)` fits a terminal's width; in a file, a pipe or a notebook nothing is cut or wrapped.
    `text(width=...)` is for any other place.
    """

    _text: Callable[[int | None, bool], str] = field()

    def text(self, *, width: int | None = None, unicode: bool = True) -> str:
        """The text without colour.

        Args:
            width: columns of a terminal, at least 80; None cuts and wraps nothing.
            unicode: whether signs beyond ASCII may be used.
        """
        return self._text(width, unicode)

    def __str__(self) -> str:
        return self._text(stdout_width(), stdout_unicode())

    # What an interactive session shows of a value: here the text, not a name of a class.
    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The text in letters of one width, whose long lines wrap as the cell is narrow."""
        style = "white-space: pre-wrap; overflow-wrap: anywhere; padding: 0; background: none;"
        return str(Markup('<pre style="{}">{}</pre>').format(Markup(style), escape(self._text(None, True))))
