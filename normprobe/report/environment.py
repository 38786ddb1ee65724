"""The templates and how they are filled in."""

from __future__ import annotations

import re
from functools import cache

import jinja2
from markupsafe import Markup, escape

from normprobe.wording import format_number


@cache
def environment() -> jinja2.Environment:
    """The templates' environment: everything that is not Markup is escaped, a missing name is an error."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("normprobe.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    made.filters["number"] = format_number
    made.filters["breakable"] = breakable
    return made


def breakable(name: str) -> Markup:
    """Escape a layer's name and let it wrap after its dots."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=\.)(?=.)", name))
