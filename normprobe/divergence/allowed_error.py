"""Whether two models differ by more than is allowed, and where."""

from __future__ import annotations

from math import isnan
from numbers import Real
from typing import Any

import numpy as np

from normprobe.divergence.differences import Differences
from normprobe.divergence.verdict import shown_name
from normprobe.errors import NormprobeError
from normprobe.vocabulary import OUTPUT


def largest_error(found: Differences) -> tuple[str, float] | None:
    """The layer whose output has the largest error, and that in dB; None without an output compared."""
    outputs = found.layers[(found.layers["site"] == OUTPUT) & found.layers["error_db"].notna()]
    if outputs.empty:
        return None
    row = outputs.iloc[int(outputs["error_db"].argmax())]
    return str(row["layer"]), float(row["error_db"])


def error_above(found: Differences, above: Any) -> str:
    """What exceeds an allowed error, in words, or "" if nothing does.

    Of NaN and infinite values the place is the first that has them, which may be an input: outputs behind it
    have them from there.

    Args:
        found: what the comparison found.
        above: the largest error at a layer's output that is allowed, in dB.

    Raises:
        NormprobeError: ``above`` is no number.
    """
    if isinstance(above, bool) or not isinstance(above, Real) or isnan(above):
        raise NormprobeError(f"above is a number of decibels, such as -30, got {above!r}")
    worst = largest_error(found)
    if worst is None or not worst[1] > float(above):
        return ""
    layer, error = worst
    if error < np.inf:
        # As many digits as it takes to see that it is above.
        shown = next(text for text in (f"{error:.1f}", f"{error:.3f}", repr(error)) if float(text) > above)
        return f"error {shown.replace('-', '−')} dB at {shown_name(found, layer)} ({OUTPUT})"
    first = found.layers[found.layers["error_db"] == np.inf].iloc[0]
    return f"NaN or Inf at {shown_name(found, str(first['layer']))} ({first['site']})"
