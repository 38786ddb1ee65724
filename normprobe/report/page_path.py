"""The path of a page that was written, as a link where a notebook shows it."""

from __future__ import annotations

from html import escape
from pathlib import Path
from urllib.parse import quote


class PagePath(type(Path())):  # type: ignore[misc]  # the class of paths on this system, known when it runs
    """A path like any other; a notebook shows it as a link."""

    def _repr_html_(self) -> str:
        href = self.as_uri() if self.is_absolute() else quote(self.as_posix())
        return f'<a href="{escape(href)}" target="_blank">{escape(str(self))}</a>'
