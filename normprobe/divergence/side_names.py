"""What the two sides of a comparison are called, so that they can be told apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def side_names(facts: Mapping[str, Any], *, dtypes: bool = False) -> tuple[str, str]:
    """The names of the two sides, which differ.

    Args:
        facts: those of a comparison.
        dtypes: whether to name both dtypes; else only where nothing but these tells the sides apart.
    """
    first, second = facts["names"]
    same_name, same_dtype = first == second, facts["dtypes"][0] == facts["dtypes"][1]
    marks = ["first", "second"] if same_name and same_dtype else ["", ""]
    shown = facts["dtypes"] if dtypes or (same_name and not same_dtype) else ["", ""]
    a, b = (", ".join(filter(None, pair)) for pair in zip(marks, shown, strict=True))
    return (f"{first} ({a})" if a else first), (f"{second} ({b})" if b else second)
