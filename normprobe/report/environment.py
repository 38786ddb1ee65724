"""The templates and how they are filled in."""

from __future__ import annotations

from functools import cache

import jinja2

from normprobe.wording import format_number


@cache
def environment() -> jinja2.Environment:
    """The templates' environment: everything that is not Markup is escaped, a missing name is an error."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("normprobe.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    made.filters["number"] = format_number
    return made
