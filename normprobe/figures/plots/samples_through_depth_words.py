"""The words of the samples through depth: caption, one sentence, and the numbers of one norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normprobe.formatting import format_count, format_number, plural

if TYPE_CHECKING:
    from normprobe.figures.plots.samples_through_depth import Stream


def numbers(found: Stream, column: int) -> str:
    """Return what hovering over a norm says."""
    row, sizes = found.bands.iloc[column], found.sizes.iloc[:, column]
    low, middle, high = (format_number(row[q]) for q in (0.05, 0.5, 0.95))
    return (
        f"{found.depth.layers[column]}\nroot mean square of one {found.unit}: median {middle}\n"
        f"5–95 %: {low} to {high}\n"
        f"largest of {format_count(int(sizes.count()))} kept: {format_number(sizes.max())}"
    )


def caption(found: Stream) -> str:
    """Return what to look at, with the counts filled in."""
    kept, over = len(found.sizes), found.over
    if not found.top > 0:
        return f"No kept {found.unit} has finite values above 0 before these norms."
    shown = "median, bands, the most extreme by name" if found.extreme else "median and bands"
    text = f"The same {format_count(kept, found.unit)} in every layer: {shown}."
    if not over:
        return (
            f"{text} None exceeds ten times the median; the largest reaches {format_number(found.top)} times."
        )
    verb = "exceeds" if over == 1 else "exceed"
    text += f" **{format_count(over)} of {format_count(kept)}** {verb} ten times the median somewhere"
    if found.first and over == 1:
        text += f"; it is the first {found.unit} of its {found.example}"
    elif found.first:
        which = "all of those" if found.first == over else f"{found.first} of those {over}"
        text += f"; {which} are the first {found.unit} of their {found.example}"
    ending = "far above all others through many blocks carry massive activations"
    return f"{text}. A few {plural(found.unit)} {ending}."


def aria_label(found: Stream) -> str:
    """Return one sentence for those who do not see the figure."""
    medians = found.bands[0.5]
    if not medians.notna().any():
        return f"Root mean square before {format_count(len(medians), 'norm')}: no finite values."
    ends = f"{format_number(medians.iloc[0])} to {format_number(medians.iloc[-1])}"
    return (
        f"Root mean square of {format_count(len(found.sizes), found.unit)} before "
        f"{format_count(len(medians), 'norm')}: the median goes from {ends}; "
        f"{format_count(found.over)} above ten times the median somewhere."
    )
