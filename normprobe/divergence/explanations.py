"""Why two models differ at a layer, and where that ends, in sentences that follow the first of a verdict."""

from __future__ import annotations

import pandas as pd

from normprobe.divergence.causes import in_words
from normprobe.divergence.differences import Differences
from normprobe.divergence.undone import Undone, undone
from normprobe.vocabulary import INPUT, OUTPUT

_SIDES = {"a": ("first", "second"), "b": ("second", "first")}


def clauses(found: Differences, layer: str, *, site: str = OUTPUT) -> list[str]:
    """What of a layer's own differs, a clause each; at its input only what bears on what it reads.

    Without what holds for the models as wholes: the dtype where they compute in other ones, the mode where
    they ran in other ones.
    """
    own = found.causes[found.causes["layer"] == layer]
    left_out = {"dtype"} if found.facts["precision_differs"] else set()
    if common_modes(found) is not None:
        left_out.add("mode")
    # What a layer stores cannot change what it reads; its dtype can.
    if site == INPUT:
        own = own[own["what"] == "dtype"]
    return [str(said) for what, said in zip(own["what"], own["said"], strict=True) if what not in left_out]


def what_differs(found: Differences, layer: str) -> tuple[str, ...]:
    """The things of a layer's own that differ, by the names of `normprobe.divergence.CAUSES`."""
    return tuple(map(str, found.causes.loc[found.causes["layer"] == layer, "what"]))


def common_modes(found: Differences) -> tuple[str, str] | None:
    """The modes of the two models, if more than half of the layers compared ran in other ones."""
    # Of most layers it is the whole model's, and is said once.
    modes = found.causes[found.causes["what"] == "mode"]
    if 2 * modes["layer"].nunique() <= int(found.facts["matched"]):
        return None
    return str(modes["a"].mode()[0]), str(modes["b"].mode()[0])


def cause_sentences(found: Differences, layer: str, site: str) -> list[str]:
    """What differs at the first layer that does, and in the models as wholes."""
    said = []
    own = clauses(found, layer, site=site)
    if own:
        text = in_words(own)
        said.append(f"{text[0].upper()}{text[1:]}.")
    modes = common_modes(found)
    if modes is not None:
        said.append(f"The first ran in {modes[0]} mode, the second in {modes[1]} mode.")
    return said


def twin_sentences(found: Differences) -> list[str]:
    """Which layer fired in one model only, while one of its shape in its place never did in the other."""
    twins = found.facts.get("silent_twins", [])
    if not twins:
        return []
    of, layer, names, status = twins[0]
    here, there = _SIDES[of]
    more = f" So it is with {len(twins) - 1:,} more." if len(twins) > 1 else ""
    return [
        f"{layer} fired in the {here} only; {', '.join(names)} of the {there}, of its shape and in its "
        f"place, {'was ' if status == 'bypassed' else ''}{status}.{more}"
    ]


def undone_sentence(found: Differences) -> str:
    """Where the first difference is gone again, or ""."""
    gone = undone(found.layers) if found.facts["same_data"] else None
    if gone is None:
        return ""
    if gone.behind and gone.agrees_after is not None:
        return (
            f"This difference is gone behind {gone.behind}, whose output agrees again to rounding; so is "
            f"every later one, and the last layer, {_last(found.layers)}, gives the same in both."
        )
    if gone.agrees_after is not None:
        return f"It does not last: all layers after {_at(gone.agrees_after)} agree again to rounding."
    if gone.goes_on_at is not None:
        return (
            f"This difference is gone behind {gone.behind}, whose output agrees again to rounding; what "
            f"differs to the end begins at {_at(gone.goes_on_at)}{_causes_at(found, *gone.goes_on_at)}."
        )
    return ""


def is_undone(found: Differences) -> Undone | None:
    """Where all that differs is gone again behind layers that read it; None if it is not sure to be."""
    gone = undone(found.layers) if found.facts["same_data"] else None
    return gone if gone is not None and gone.behind and gone.agrees_after is not None else None


def _causes_at(found: Differences, layer: str, site: str) -> str:
    own = clauses(found, layer, site=site)
    return f": {in_words(own)}" if own else ""


def _last(layers: pd.DataFrame) -> str:
    return str(layers["layer"].iloc[-1])


def _at(place: tuple[str, str]) -> str:
    return f"{place[0]} (its {place[1]})"
