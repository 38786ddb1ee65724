"""The words of the figure of divergence: caption, one sentence, and the numbers of each layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from normprobe.formatting import format_count, format_db, format_number

if TYPE_CHECKING:
    from normprobe.figures.plots.divergence_profile import Divergences


def caption(found: Divergences) -> str:
    """Return what to look at, with the numbers filled in."""
    runs = ["Blue, hollow: a layer’s input; orange, filled: its output. At the foot: no error at all."]
    if found.same:
        runs.append(
            "Dots below the dashed line are rounding; a step up marks where the two part. "
            "−20 dB is a tenth of the signal, −40 dB a hundredth."
        )
        if found.first is not None:
            runs.append("**Bottom:** what a layer adds to the error that it was given, beyond rounding.")
    else:
        runs.append(
            "The two saw other data: the errors are those of means and variances, and the dashed line is "
            "what as many other examples would give if the rows of each were alike. Which layers differ is "
            "for the test to say, not for the line."
        )
    if found.first is None:
        return " ".join([*runs, "Nothing lies beyond the noise."])
    beyond = found.rows.groupby("layer", sort=False)["beyond"].any()
    words = f"{int(beyond.sum()):,} of {format_count(len(beyond), 'layer')} differ beyond the noise."
    return " ".join([*runs, words])


def aria_label(found: Divergences) -> str:
    """Return one sentence for those who do not see the figure."""
    errors = found.rows["error_db"]
    where = "none beyond the noise"
    if found.first is not None:
        where = f"first beyond the noise at {found.first['layer']} ({found.first['site']})"
    largest, count = format_db(float(errors.max())), format_count(len(found.depth.layers), "layer")
    return f"Error of {count} in order of execution, at most {largest}; {where}."


def numbers(found: Divergences) -> Iterator[tuple[str, str]]:
    """Yield each layer and its numbers, as hovering shows them."""
    for layer, rows in found.rows.groupby("layer", sort=False):
        lines = [str(layer)]
        for row in rows.to_dict("records"):
            words = f"{row['site']}: error {format_db(row['error_db'])}"
            if row["beyond"] and found.same:
                words += f", inherited {format_db(row['inherited_db'])}"
                words += f", introduced {format_db(row['introduced_db'])}"
            if not found.same:
                words += f", by chance {format_number(row['likely'])}"
            lines.append(words)
        yield str(layer), "\n".join(lines)
