"""The verdict of a comparison in sentences: the first is the answer, the others what it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from math import comb

import numpy as np
import pandas as pd

from normprobe.divergence.causes import in_words
from normprobe.divergence.differences import Differences
from normprobe.divergence.explanations import (
    cause_sentences,
    clauses,
    is_undone,
    twin_sentences,
    undone_sentence,
    what_differs,
)
from normprobe.divergence.rounding import unit
from normprobe.divergence.undone import undone
from normprobe.formatting import format_count, format_db, format_number
from normprobe.vocabulary import INPUT, OUTPUT

COMPARE_MODELS = (
    "compare the models themselves to see which (normprobe compare MODEL MODEL; in Python "
    "compare(..., models=(a, b)))"
)
"""What says which tensor differs where only recordings were compared."""

_MOST_NAMED = 3


@dataclass(frozen=True)
class Divergence:
    """The first place where two models differ beyond the noise.

    Attributes:
        layer: its name in the first model.
        site: `output`: it arises in the layer; `input`: between the layers before and this one.
        layer_b: its name in the second model.
        error_db: noise power over signal power there, dB.
        noise_db: the error that rounding (same data) or sampling (other data) may give by itself, dB.
        after: the layer compared that runs before it, or None if it is the first.
        differs: what of the layer's own differs, by the names of `CAUSES`: eps, scale, shift, ...
        undone_behind: the layer whose output agrees again though it reads the difference; None without one.
    """

    layer: str
    site: str
    layer_b: str
    error_db: float
    noise_db: float
    after: str | None
    differs: tuple[str, ...] = ()
    undone_behind: str | None = None


def first_divergence(found: Differences) -> Divergence | None:
    """The first place in order of execution that differs beyond the noise, or None."""
    layers = found.layers
    beyond = np.flatnonzero(layers["beyond"].to_numpy(bool))
    if not len(beyond):
        return None
    at = int(beyond[0])
    row = layers.iloc[at]
    before = layers["layer"].iloc[:at]
    # Its own input is the same layer, and says nothing of where to look.
    earlier = before[before != row["layer"]]
    after = str(earlier.iloc[-1]) if len(earlier) else None
    # Of other data nothing agrees to rounding.
    gone = undone(layers) if found.facts["same_data"] else None
    return Divergence(
        str(row["layer"]),
        str(row["site"]),
        str(row["layer_b"]),
        float(row["error_db"]),
        float(row["noise_db"]),
        after,
        what_differs(found, str(row["layer"])),
        gone.behind or None if gone is not None else None,
    )


VERDICTS = {
    "equal": "same data: no error at any layer compared",
    "within_rounding": "same data: no layer differs by more than rounding of the dtype of both",
    "within_precision": "same data, other dtypes: no layer differs by more than rounding of the coarser one",
    "within_sampling": "other data: no difference beyond chance",
    "too_few_examples": "other data: of so few examples that no difference, however large, would be named",
    "differs": "a layer differs beyond the noise; see `first_divergence`",
}


def verdict_code(found: Differences) -> str:
    """The answer as one of `VERDICTS`."""
    facts = found.facts
    if found.layers["beyond"].any():
        return "differs"
    if not facts["same_data"]:
        # Not "no difference": with so few examples the test could not have named one.
        few = _least_probability(*facts["examples"]) > facts["level"]
        return "too_few_examples" if few else "within_sampling"
    if (found.layers["error_db"] == -np.inf).all():
        return "equal"
    return "within_precision" if facts["precision_differs"] else "within_rounding"


def _least_probability(a: int, b: int) -> float:
    """The smallest probability that all permutations of so many examples can give, two-sided."""
    return 2 / comb(a + b, a)


def _fewest(level: float) -> int:
    """How many examples of each are the fewest of which a difference can be named at a level."""
    return next(number for number in count(1) if _least_probability(number, number) <= level)


def sentences(found: Differences) -> list[str]:
    """What was found, the answer first."""
    first = first_divergence(found)
    if not found.facts["same_data"]:
        answer = _other(found, first)
    elif first is None:
        answer = _agreement(found)
    else:
        answer = [" ".join([_where(found, first), *_why(found, first)]), *_extent(found, first)]
    # Where the answer names them already, once is enough.
    named = found.facts["same_data"] and first is not None and first.site == INPUT
    stored = "" if named else not_measured_words(found)
    return [*answer, *([f"{stored}."] if stored else []), *_precision(found), *_circumstances(found)]


def answer_parts(found: Differences) -> list[str]:
    """The first of `sentences` in its parts: where the two differ first, why, and where that ends."""
    whole, first = sentences(found)[0], first_divergence(found)
    why = [] if first is None else _why(found, first)
    # Taken off the text, not built again, so that both always say the same.
    start = whole.removesuffix(f" {' '.join(why)}") if why else whole
    return [whole] if start == whole else [start, *why]


def shown_name(found: Differences, layer: str) -> str:
    """The name to show for a layer: its own, or the class of a model that is itself a layer."""
    return layer or str(found.facts["models"][0])


def _where(found: Differences, first: Divergence) -> str:
    name = shown_name(found, first.layer)
    size = f"error {format_db(first.error_db)}"
    if first.error_db == np.inf:
        size = "NaN or infinite values in one of the two only"
    start = f"The first layer that differs is {name} (its {first.site}): {size}"
    if first.site == OUTPUT:
        return f"{start}, introduced there; its input agrees to rounding."
    if first.after is None:
        return f"{start}, before any layer compared: {_before_all_layers(found)}."
    before = shown_name(found, first.after)
    return (
        f"{start}, though every layer before it agrees to rounding: it arises between the layers, "
        f"on the way to this one ({before} runs before it)."
    )


def _before_all_layers(found: Differences) -> str:
    """What may differ where the first layer already reads something else."""
    stored = not_measured_words(found)
    if stored:
        return stored
    data = "" if surely_same_data(found) else "the data or their preparation differ, or "
    if found.facts.get("not_measured") is None:
        start = data or "it arises in "
        return f"{start}a layer before it that is not measured (convolution, embedding); {COMPARE_MODELS}"
    if data:
        return f"{data}what runs before it; all that the two store is alike"
    return "what runs before it differs, though all that the two store is alike"


def surely_same_data(found: Differences) -> bool:
    """Whether both models were given the same bits; otherwise numbers agree, or the caller says they do."""
    return found.facts["paired_by"] in ("digests", "live")


def not_measured_words(found: Differences) -> str:
    """Which tensors of layers that are not measured differ, or ""."""
    named = [f"{name} differs {said}" for name, said in found.facts.get("not_measured") or []]
    more = [f"and {len(named) - _MOST_NAMED:,} more"] if len(named) > _MOST_NAMED else []
    # Semicolons, as what is said of one may hold commas, colons and numbers.
    return f"{'; '.join([*named[:_MOST_NAMED], *more])} (not measured)" if named else ""


def _why(found: Differences, first: Divergence) -> list[str]:
    """What differs at the first layer that does, and where that ends."""
    said = cause_sentences(found, first.layer, first.site)
    # Only before an input can a layer that is not compared be what differs.
    if first.site == INPUT:
        said += twin_sentences(found)
        if first.after is not None and (stored := not_measured_words(found)):
            said.append(f"{stored}.")
    return [*said, *filter(None, [undone_sentence(found)])]


def _extent(found: Differences, first: Divergence) -> list[str]:
    """How far it goes on, and whether more arises elsewhere."""
    layers = found.layers
    each = layers.groupby("layer", sort=False)[["beyond", "introduces"]].any()
    later = each.loc[first.layer :].iloc[1:]
    lines = []
    if later["beyond"].any():
        reached = int(later["beyond"].sum())
        worst = layers.iloc[int(layers["error_db"].argmax())]
        who = f"After it {reached:,} of {len(later):,} layers differ too"
        lines.append(
            f"{'The one layer after it differs too' if len(later) == 1 else who}; the largest error is "
            f"{format_db(float(worst['error_db']))}, at {worst['layer']} (its {worst['site']})."
        )
    elif len(later):
        lines.append(f"Of the {format_count(len(later), 'layer')} after it none differs.")
    own = [str(layer) for layer in later.index[later["introduces"]]]
    # Half of all layers share one cause, and a list of them would hide it.
    if 2 * len(own) >= len(each) - 1 > 0:
        lines.append(
            f"{len(own) + 1:,} of {format_count(len(each), 'layer')} introduce error of their own, "
            "so all weights or the precision changed."
        )
    elif own and is_undone(found) is None:
        lines.append(f"More error arises at {_named([_with_cause(found, layer) for layer in own])}.")
    return lines


def _with_cause(found: Differences, layer: str) -> str:
    """A layer's name, with what of its own differs."""
    own = clauses(found, layer)
    return f"{layer} ({in_words(own)})" if own else layer


def _named(layers: list[str]) -> str:
    more = len(layers) - _MOST_NAMED
    return ", ".join(layers[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _agreement(found: Differences) -> list[str]:
    layers, facts = found.layers, found.facts
    layers_said = format_count(int(facts["matched"]), "layer")
    agrees = "agrees" if int(facts["matched"]) == 1 else "agree"
    if verdict_code(found) == "equal":
        return [f"Equal: no difference at any of {layers_said}."]
    worst = layers.iloc[int(layers["error_db"].argmax())]
    largest, where = format_db(float(worst["error_db"])), _at(found, worst)
    if verdict_code(found) == "within_rounding":
        return [
            f"Equal up to rounding: {layers_said} {agrees} to rounding of {facts['dtypes'][0]}; "
            f"the largest error is {largest}, at {where}."
        ]
    # A layer without any error has no level for a drift to begin at.
    start = layers[layers["error_db"] > -np.inf].iloc[0]
    return [
        f"{facts['dtypes'][0]} against {facts['dtypes'][1]}: {layers_said} {agrees} to the rounding of "
        f"{max(facts['dtypes'], key=unit)}. "
        f"The error drifts from {format_db(float(start['error_db']))} at {_at(found, start)} "
        f"to {largest} at {where}."
    ]


def _at(found: Differences, row: pd.Series) -> str:
    return f"{shown_name(found, str(row['layer']))} (its {row['site']})"


def _other(found: Differences, first: Divergence | None) -> list[str]:
    """The answer where samples cannot be paired."""
    sizes = found.facts["examples"]
    level = f"{100 * found.facts['level']:g} %"
    seen = f"{sizes[0]:,} and {format_count(sizes[1], 'example')}"
    unpaired = "The two saw other data, so samples cannot be paired."
    if sizes[0] == sizes[1] and found.facts["parts"][0] != found.facts["parts"][1]:
        unpaired = (
            "Samples cannot be paired, as the two saw other data, or the same cut into other parts: "
            "then compare with same_data=True."
        )
    if verdict_code(found) == "too_few_examples":
        return [
            f"{sizes[0]:,} and {sizes[1]:,} examples are too few to tell at level {level}; "
            f"from {_fewest(found.facts['level']):,} of each on a large difference can show.",
            unpaired,
        ]
    if first is None:
        return [f"No difference beyond chance ({seen}: only large ones would show).", unpaired]
    place = f"{shown_name(found, first.layer)} (its {first.site})"
    likely = found.layers.set_index(["layer", "site"])["likely"].get((first.layer, first.site))
    test = f"p = {format_number(likely)}, limit {found.facts['level']:g}, {seen}"
    start = f"The first layer that differs is {place}, by more than chance explains ({test})."
    if first.after is None and first.site == INPUT:
        cause = (
            "It is the first that runs: the data may be of another kind. This says nothing about the layers "
            "themselves."
        )
        return [start, cause, unpaired]
    return [" ".join([start, *_why(found, first)]), unpaired]


def _precision(found: Differences) -> list[str]:
    facts = found.facts
    if facts["precision_differs"]:
        coarse = facts["dtypes"][1] if facts["dtypes"][1] != facts["dtypes"][0] else "the coarser dtype"
        return [
            f"The first computes in {facts['dtypes'][0]}, the second in {coarse}: rounding is no difference."
        ]
    changed = list(dict.fromkeys(layer for layer, _ in facts["precision_changes"]))
    if not changed:
        return []
    row = found.layers[found.layers["layer"] == changed[0]].iloc[0]
    pairs = f"{row['dtype']} in the first and {row['dtype_b']} in the second"
    return [f"{_named(changed)} computes in another dtype: {pairs}."]


def _circumstances(found: Differences) -> list[str]:
    """What limits the answer: order, layers left out."""
    facts, lines = found.facts, []
    kinds = found.layers[found.layers["kind"] != found.layers["kind_b"]]
    if len(kinds):
        row = kinds.iloc[0]
        lines.append(f"{row['layer']} is a {row['kind']} in the first, a {row['kind_b']} in the second.")
    if facts["reordered"] is not None:
        lines.append(f"The second runs its layers in another order, which shows at {facts['reordered']}.")
    if len(found.unmatched):
        alone = [f"{row.layer} ({row.of})" for row in found.unmatched.itertuples()]
        lines.append(
            f"{format_count(len(alone), 'layer')} {'has' if len(alone) == 1 else 'have'} no counterpart and "
            f"{'is' if len(alone) == 1 else 'are'} not compared: {_named(alone)}."
        )
    return [*lines, *(f"{text[0].upper()}{text[1:]}." for text in facts.get("warnings", []) if text)]
