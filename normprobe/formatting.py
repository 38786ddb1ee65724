"""How numbers, layer names and samples are written wherever a person reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from normprobe.formatting_names import block_of, in_prose, role_labels, role_of, shorten_name, spots, text_width

__all__ = [
    "MISSING",
    "block_of",
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
        mantissa, exponent = f"{size:.2e}".split("e")
        text = f"{float(mantissa):g} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return f"−{text}" if number < 0 else text


def _plain(size: float) -> str:
    """Write a positive number of ordinary size without an exponent."""
    if size >= 999.5:
        return f"{size:,.0f}"
    decimals = max(0, 2 - int(np.floor(np.log10(size))))
    text = f"{size:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_db(value: float) -> str:
    """Write an error in dB: `−38 dB`, `none` without any error, `NaN or Inf`, `–` where it is not known."""
    if np.isnan(value):
        return MISSING
    if np.isinf(value):
        return "none" if value < 0 else "NaN or Inf"
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
    """Return the plural of a noun used in reports ("token" -> "tokens", "batch" -> "batches")."""
    return f"{noun}es" if noun.endswith(("s", "x", "ch")) else f"{noun}s"


def shorten_text(text: str, width: int = 18) -> str:
    """Shorten a sample's text at the end and show its white space and control characters as blanks."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text).strip() or "␣"
    if text_width(clean) <= width:
        return clean
    while text_width(clean) >= width:
        clean = clean[:-1]
    return f"{clean}…"


def sample_word(meta: Mapping[str, Any], sample_unit: str | None = "position", count: int = 1) -> str:
    """Return what a sample is called: "token", "position", "image", "text", "example" (or their plurals).

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
    """Return a plain float, NaN for None and pandas' NA."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
