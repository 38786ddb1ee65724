"""Phrases that several checks put into their messages."""

from __future__ import annotations

from normprobe.formatting import format_count


def same_at(count: int, noun: str) -> str:
    """How many layers share what a message says of the first of them; nothing where it is the only one.

    >>> same_at(3, "norm"), same_at(1, "norm")
    ('; the same holds for 3 norms, this one first', '')
    """
    return f"; the same holds for {format_count(count, noun)}, this one first" if count > 1 else ""
