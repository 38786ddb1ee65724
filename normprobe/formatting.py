"""How numbers, layer names and samples are written wherever a person reads them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from math import log
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "MISSING",
    "block_of",
    "change_words",
    "format_count",
    "format_db",
    "format_number",
    "format_range",
    "format_tick",
    "in_prose",
    "name_sample",
    "plural",
    "role_labels",
    "role_of",
    "sample_word",
    "shorten_name",
    "shorten_text",
    "spots",
    "steps_words",
    "text_width",
]

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MISSING = "–"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def format_number(value: Any) -> str:
    """Write a number with three significant digits, whole above 1,000, as a power of ten far from 1.

    Args:
        value: a number; None, NaN and pandas' NA count as missing.

    Returns:
        Text with a true minus sign and thousands separated.

    Examples:
        >>> [format_number(x) for x in (0, 0.06, 5.5912, 27346.8, -6.77, 3.4e38, 1.234e-7)]
        ['0', '0.06', '5.59', '27,347', '−6.77', '3.4 × 10³⁸', '1.23 × 10⁻⁷']
    """
    number = _as_float(value)
    if np.isnan(number):
        return MISSING
    size = abs(number)
    if np.isinf(size):
        text = "∞"
    elif size == 0:
        text = "0"
    elif 1e-4 <= size < 1e7:
        text = _plain(size)
    else:
        # By the format, which carries: 9.999e-5 is 1.00e-4.
        mantissa, exponent = f"{size:.2e}".split("e")
        text = f"{float(mantissa):g} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return f"−{text}" if number < 0 else text


def _plain(size: float) -> str:
    """Write a positive number of ordinary size without an exponent."""
    # What three digits round to 1,000 is whole, too.
    if size >= 999.5:
        return f"{size:,.0f}"
    decimals = max(0, 2 - int(np.floor(np.log10(size))))
    text = f"{size:.{decimals}f}"
    # 100 keeps its zeros.
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_db(value: float) -> str:
    """Write an error in dB: `−38 dB`, `none` without any error, `NaN or Inf`, `–` where it is not known."""
    if np.isnan(value):
        return MISSING
    if np.isinf(value):
        return "none" if value < 0 else "NaN or Inf"
    # The rounded value decides: −0.4 dB is 0, not −0.
    return f"{'−' if round(value) < 0 else ''}{abs(round(value))} dB"


def format_tick(value: float) -> str:
    """Write a tick of an axis: 0.01, 10,000, 10⁶, 2 × 10⁷.

    Args:
        value: a round number.

    Returns:
        The shortest text that is exact for 1-2-5 ticks.
    """
    size = abs(float(value))
    sign = "−" if value < 0 else ""
    if size == 0:
        return "0"
    # A power of ten may have lost its last bit on its way through logarithms.
    exponent = int(np.floor(np.log10(size) + 1e-9))
    if -4 < exponent < 6:
        text = f"{size:,.6f}".rstrip("0").rstrip(".") if size < 1000 else f"{size:,.0f}"
        return sign + text
    power = f"10{str(exponent).translate(_SUPERSCRIPT)}"
    mantissa = size / 10.0**exponent
    return sign + (power if abs(mantissa - 1) < 1e-6 else f"{mantissa:.3g} × {power}")


def format_count(count: int, noun: str | None = None) -> str:
    """Write a count with its noun in the right number: "1 norm", "2,110 tokens".

    Args:
        count: how many.
        noun: the singular; "Linear" stays as it is.

    Returns:
        The count, thousands separated, and the noun if there is one.
    """
    if noun is None:
        return f"{count:,}"
    return f"{count:,} {noun if count == 1 or noun == 'Linear' else plural(noun)}"


def format_range(low: Any, high: Any) -> str:
    """Write a range: "0.2 to 31", one number where both ends read the same, "undefined" without any."""
    ends = (format_number(low), format_number(high))
    if MISSING in ends:
        return "undefined"
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def plural(noun: str) -> str:
    """The plural of a noun used in reports ("token" -> "tokens", "batch" -> "batches")."""
    return f"{noun}es" if noun.endswith(("s", "x", "ch")) else f"{noun}s"


def shorten_text(text: str, width: int = 18) -> str:
    """Shorten a sample's text at the end and show its white space and control characters as blanks."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text).strip() or "␣"
    if text_width(clean) <= width:
        return clean
    # Letter by letter, as they differ in width.
    while text_width(clean) >= width:
        clean = clean[:-1]
    return f"{clean}…"


def sample_word(meta: Mapping[str, Any], sample_unit: str | None = "position", count: int = 1) -> str:
    """The word for a sample: "token", "position", "image", "text", "example" (or their plurals).

    Args:
        meta: `Tables.meta`, whose `unit` and `example_unit` name positions and examples.
        sample_unit: `position` or `example`, or None where layers of both kinds are meant.
        count: how many; anything but 1 gives the plural.

    Returns:
        The noun.
    """
    words = {"position": meta.get("unit") or "position", "example": meta.get("example_unit") or "example"}
    noun = words.get(sample_unit or "", "sample")
    return noun if count == 1 else plural(noun)


def name_sample(
    meta: Mapping[str, Any],
    sample: tuple[Any, Any],
    sample_unit: str,
    text: str | None = None,
    part: str | None = None,
) -> str:
    """Name a sample for a person: “class” text 35, token 0; in a merged recording text 35 of night.

    Args:
        meta: `Tables.meta`.
        sample: its example and position.
        sample_unit: `position` or `example`.
        text: the sample's own text, if known.
        part: the part of the data it is of, told where there are several; of a uuid the first eight digits.

    Returns:
        One short phrase.
    """
    name = f"{sample_word(meta, 'example')} {sample[0]}"
    if part is not None and len(meta.get("parts", ())) > 1:
        name += f" of {part[:8] if _UUID.fullmatch(part) else shorten_text(part, 16)}"
    if sample_unit == "position":
        name += f", {sample_word(meta)} {sample[1]}"
    return f"“{shorten_text(text)}” {name}" if text is not None else name


def _as_float(value: Any) -> float:
    """A plain float, NaN for None and pandas' NA."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def text_width(text: str) -> int:
    """How many columns a text takes: wide (CJK) letters two, combining marks none."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def shorten_name(name: str, width: int = 28) -> str:
    """Shorten a layer's name at the front, at a dot where one is near, so that its end stays readable.

    Args:
        name: the qualified name.
        width: the most columns it may take.

    Returns:
        The name, or "…" and the end of it.

    Examples:
        >>> shorten_name("encoder.layer.0.attention.output.LayerNorm", 20)
        '…output.LayerNorm'
    """
    if text_width(name) <= width:
        return name
    start = len(name)
    while start > 0 and text_width(name[start - 1 :]) < width:
        start -= 1
    tail = name[start:]
    dot = tail.find(".")
    # A dot farther back would cost more of the name than a whole word is worth.
    if 0 <= dot < len(tail) // 2:
        tail = tail[dot + 1 :]
    return f"…{tail}"


def in_prose(layer: str) -> str:
    """A layer's name as a sentence takes it: a bare number is called a layer, no name the model.

    Examples:
        >>> in_prose("encoder.norm"), in_prose("4"), in_prose("")
        ('encoder.norm', 'layer 4', 'the model')
    """
    return f"layer {layer}" if layer.isdecimal() else layer or "the model"


def role_of(layer: str) -> str:
    """The role of a layer: its name with the first integer replaced by ``*``.

    Layers of one role do the same in different blocks.

    Examples:
        >>> role_of("model.layers.12.mlp.down_proj")
        'model.layers.*.mlp.down_proj'
    """
    parts = layer.split(".")
    for index, part in enumerate(parts):
        # Not isdigit, for which a superscript two is one, too; int() reads none.
        if part.isdecimal():
            return ".".join([*parts[:index], "*", *parts[index + 1 :]])
    return layer


def block_of(layer: str) -> int | None:
    """The block of a layer, the first integer in its name, or None outside any block."""
    return next((int(part) for part in layer.split(".") if part.isdecimal()), None)


class Spot(NamedTuple):
    """Where a layer stands among others.

    Attributes:
        stack: what stands before the block number, None outside any block.
        block: the block number, None outside any block.
        role: the name with the block number replaced by ``*``.
    """

    stack: str | None
    block: int | None
    role: str


def spots(layers: Sequence[str]) -> dict[str, Spot]:
    """Where each layer stands: as `role_of` and `block_of` say, less integers that number no blocks.

    Within a `Sequential` nearly all names begin with the same integer (``0.encoder.layer.3.output``): an
    integer that most names share, and that another one follows, is read as part of the name.

    Args:
        layers: distinct names.

    Returns:
        Layer to spot.
    """
    skip = ""
    # Again and again, as one Sequential may lie in another.
    while True:
        found = {layer: _spot(layer, skip) for layer in layers}
        counts = Counter((spot.stack, spot.block) for spot in found.values() if spot.block is not None)
        if not counts:
            return found
        (stack, block), most = counts.most_common(1)[0]
        mine = [layer for layer, spot in found.items() if (spot.stack, spot.block) == (stack, block)]
        head = f"{stack}.{block}." if stack else f"{block}."
        deeper = sum(_spot(layer, head).block is not None for layer in mine)
        # Not all names need to share it: beside an encoder there may be a head with a number of its own.
        if most <= 0.75 * len(layers) or deeper <= 0.75 * most or most < 2:
            return found
        skip = head


def _spot(layer: str, skip: str) -> Spot:
    """Where a layer stands if its name's beginning `skip` numbers nothing."""
    head = skip if layer.startswith(skip) else ""
    role = head + role_of(layer[len(head) :])
    stack, star, _ = role.partition("*")
    return Spot(stack.rstrip("."), block_of(layer[len(head) :]), role) if star else Spot(None, None, layer)


def role_labels(roles: Sequence[str]) -> dict[str, str]:
    """A short, distinct label for each role: the end of its name, as long as it needs to be.

    An ending that all share is left out. A layer outside any block keeps its name.

    Args:
        roles: distinct roles (`role_of`).

    Returns:
        Role to label.

    Examples:
        >>> role_labels(["layer.*.attention.output.LayerNorm", "layer.*.output.LayerNorm"])
        {'layer.*.attention.output.LayerNorm': 'attention.output', 'layer.*.output.LayerNorm': 'output'}
        >>> role_labels(["layers.*.self_attn.q_proj", "layers.*.mlp.down_proj"])
        {'layers.*.self_attn.q_proj': 'q_proj', 'layers.*.mlp.down_proj': 'down_proj'}
    """
    tails = {role: role.rpartition("*.")[2] for role in roles if "*" in role}
    # Of encoder and decoder the ends are the same: what stands before the number tells them apart.
    if len(set(tails.values())) < len(tails):
        tails = {role: role for role in tails}
    ends = {tail.rpartition(".")[2] for tail in tails.values()}
    if len(tails) > 1 and len(ends) == 1 and all("." in tail for tail in tails.values()):
        tails = {role: tail.rpartition(".")[0] for role, tail in tails.items()}
    every = list(tails.values())
    short = {
        role: _distinct_end(tail, [other for other in every if other != tail]) for role, tail in tails.items()
    }
    labels = {role: short.get(role, role).removesuffix(".*") for role in roles}
    # Labels that do not tell roles apart would be worse than long ones.
    return labels if len(set(labels.values())) == len(labels) else {role: role for role in roles}


def _distinct_end(name: str, others: Sequence[str]) -> str:
    """The shortest dotted end of a name that ends none of the others; the name where there is none."""
    parts = name.split(".")
    for size in range(1, len(parts)):
        end = ".".join(parts[-size:])
        if end != "*" and not any(f".{other}".endswith(f".{end}") for other in others):
            return end
    return name


def steps_words(first: int, last: int) -> str:
    """Some steps of a run.

    Examples:
        >>> steps_words(7, 7), steps_words(1000, 1009)
        ('step 7', 'steps 1,000 to 1,009')
    """
    return f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"


def change_words(
    place: str, ends: tuple[float, float], steps: tuple[int, int], factor: float, what: str = "the variance"
) -> str:
    """How a number of a layer changed over a run, and when most of it happened.

    Args:
        place: where it was measured.
        ends: the number at the beginning and at the end of the run.
        steps: the first and the last step between which it changed most.
        factor: by how much it did there.
        what: the number.

    Examples:
        >>> change_words("before layer 4", (0.12, 3.2), (120, 131), 9.0)
        'the variance before layer 4 went from 0.12 to 3.2, most of it (9×) by steps 120 to 131'
        >>> change_words("after norm", (4.0, 1.0), (7, 7), 0.5)
        'the variance after norm went from 4 to 1, most of it (÷ 2) by step 7'
    """
    when = steps_words(*steps)
    by = f"{format_number(factor)}×" if factor >= 1 else f"÷ {format_number(1 / factor)}"
    begin, end = map(format_number, ends)
    # Half of the change or more in one window is an event; less is one window of many.
    abrupt = abs(log(factor)) >= abs(log(ends[1] / ends[0])) / 2
    most = f"most of it ({by})" if abrupt else f"bit by bit, at most {by},"
    return f"{what} {place} went from {begin} to {end}, {most} by {when}"
