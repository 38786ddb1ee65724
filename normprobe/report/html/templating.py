"""The templates and how they are filled in."""

from __future__ import annotations

import re
from functools import cache

import jinja2
from markupsafe import Markup, escape

from normprobe.formatting import format_number


@cache
def environment() -> jinja2.Environment:
    """The templates' environment: everything that is not Markup is escaped, a missing name is an error."""
    # Once a process: each environment compiles the templates anew.
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("normprobe.report.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters["number"] = format_number
    made.filters["breakable"] = breakable
    made.filters["polished"] = polished
    made.filters["coded"] = coded
    return made


def polished(text: str) -> str:
    r"""Set a sentence as print does: true apostrophes, and no line break between a number and its unit.

    >>> polished("the norm's 5 %")
    'the norm’s 5\xa0%'
    """
    quotes = re.search(r"(?<!\w)'", text)  # then one after a word may close a quotation
    text = re.sub(r"(?<=\w)'(?=\w)" if quotes else r"(?<=\w)'(?=[\w\s])", "’", text)
    return re.sub(r"(?<=\d) (?=%|dB\b|×)", "\N{NO-BREAK SPACE}", text)


def coded(text: str) -> Markup:
    """Escape a sentence and set what stands between backticks as code."""
    pieces = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if i % 2 else escape(polished(piece))
        for i, piece in enumerate(pieces)
    )


def breakable(name: str) -> Markup:
    """Escape a layer's name and let it wrap after its dots."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=\.)(?=.)", name))
