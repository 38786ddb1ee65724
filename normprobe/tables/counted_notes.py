"""The warning that counts something, in one place: merged parts count it anew."""

from __future__ import annotations

from collections.abc import Iterable

_BEFORE = "the weights changed between measured forwards ("
_AFTER = (
    " times), as in training: every statistic is over all these states of the model and of none of them; "
    "`call` in samples tells the forwards apart"
)


def over_states(changes: int) -> list[str]:
    """What is to be said where weights changed so often before a measured forward; nothing where never."""
    return [f"{_BEFORE}{changes}{_AFTER}"] if changes else []


def without_counts(warnings: Iterable[str]) -> list[str]:
    """Warnings without those that count."""
    return [text for text in warnings if not (text.startswith(_BEFORE) and text.endswith(_AFTER))]
