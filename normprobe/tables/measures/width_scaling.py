"""How the size of activations grows with the width of a model: the coordinate check of muP, layer by layer.

Yang et al. 2022, "Tensor Programs V" (arXiv:2203.03466), appendix D.1: at a width that grows, a coordinate of
an activation is to keep its size. There its mean |x| is drawn over the width; here is the slope of that line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from normprobe.errors import NormprobeError
from normprobe.tables.unmeasured import check_measured
from normprobe.vocabulary import OUTPUT, in_order

if TYPE_CHECKING:
    from normprobe.tables.frames import HasTables, Tables

_FORM = "recordings by the width of the model, such as {64: recording, 128: other}"
_TYPES = {
    "layer": "string",
    "kind": "string",
    "site": "string",
    "slope": "float64",
    "standard_error": "float64",
    "r2": "float64",
    "widths": "string",
    "points": "int64",
    "smallest": "float64",
    "largest": "float64",
    "reason": "string",
}


def scaling(recordings: Mapping[int, HasTables | Sequence[HasTables]], *, site: str = OUTPUT) -> pd.DataFrame:
    """How the mean magnitude at each layer scales with the width of the model: muP's coordinate check.

    >>> normprobe.scaling({width: normprobe.record(build(width), batches) for width in (64, 128, 256)})

    By least squares, log(mean |x|) over log(width), each recording a point. A slope of 0 says that
    activations keep their size, 0.5 that they grow with the root of the width. Layers are matched by name.
    Take several recordings of a width, of other seeds: one is a draw. Of a run, look at each step's window,
    ``recording.window(i)``.

    Args:
        recordings: by width, which may be any measure of it: a recording or a list of them.
        site: where: ``"output"``, ``"input"`` or another site that was measured.

    Returns:
        A row per layer in order of execution: layer, kind, site; slope, its standard_error (missing with two
        points) and r2 (missing where all points are equal); widths, those that it is fitted over, joined by
        ``; ``; points, how many; smallest and largest, the mean |x| at the smallest and the largest of these
        widths (over several recordings the geometric mean); and reason, which points are left out, and why.
        A layer without two widths has no slope.

    Raises:
        NormprobeError: there are fewer than two widths, a width is no positive number, what is given is no
            recording, or no layer was measured at the site at two widths.
        NoSamplesError: a recording holds nothing.
    """
    tables = _by_width(recordings)
    points = _points(tables, site)
    order = list(dict.fromkeys(points["layer"]))
    groups = dict(list(points.groupby("layer", sort=False)))
    rows = [_row(groups[layer], list(tables)) for layer in order]
    if not any(row["points"] for row in rows):
        raise NormprobeError(_nothing_shared(tables, points, site))
    return pd.DataFrame(rows, columns=list(_TYPES)).astype(_TYPES)


def width_points(
    recordings: Mapping[int, HasTables | Sequence[HasTables]], *, site: str = OUTPUT
) -> pd.DataFrame:
    """The points that `scaling` fits: layer, kind, site, width, abs_mean, a row per layer and recording.

    Args:
        recordings: as for `scaling`.
        site: where.

    Raises:
        NormprobeError: as `scaling`, but for layers that are not shared.
        NoSamplesError: a recording holds nothing.
    """
    return _points(_by_width(recordings), site)


def _by_width(recordings: Any) -> dict[float, list[Tables]]:
    """The tables of each width, the smallest width first.

    Raises:
        NormprobeError: the recordings are not of the form.
        NoSamplesError: one holds nothing.
    """
    if not isinstance(recordings, Mapping):
        raise NormprobeError(f"scaling takes {_FORM}; got {type(recordings).__name__}")
    found = {}
    for width, given in recordings.items():
        # True is a number to Python, but no width.
        if isinstance(width, bool) or not isinstance(width, Real) or not 0 < float(width) < np.inf:
            raise NormprobeError(
                f"scaling takes {_FORM}; got the width {width!r}, which is no number above 0"
            )
        several = list(given) if isinstance(given, list | tuple) else [given]
        # By attribute: recordings import tables, which must not import them.
        tables = [getattr(one, "tables", one) for one in several]
        wrong = [type(one).__name__ for one in tables if not hasattr(one, "feature_moments")]
        if wrong or not tables:
            raise NormprobeError(f"scaling takes {_FORM}; got {wrong[0] if wrong else 'none'} at {width!r}")
        for one in tables:
            check_measured(one)
        found[float(width)] = tables
    if len(found) < 2:
        shown = f"only {next(iter(found)):g}" if found else "none"
        raise NormprobeError(
            f"a slope over width needs two widths, got {shown}; record the model at another, too"
        )
    return dict(sorted(found.items()))


def _points(tables: Mapping[float, list[Tables]], site: str) -> pd.DataFrame:
    """A row per recording and layer at the site, layers in order of execution, width by width.

    Raises:
        NormprobeError: no recording has the site.
    """
    every = [
        one.layers.loc[one.layers["site"] == site, ["layer", "kind", "site", "abs_mean"]].assign(width=width)
        for width, several in tables.items()
        for one in several
    ]
    points = pd.concat(every, ignore_index=True)
    if points.empty:
        known = in_order(
            name for several in tables.values() for one in several for name in one.layers["site"]
        )
        raise NormprobeError(f"no recording has a site {site!r}; ask for {', '.join(map(repr, known))}")
    return points[["layer", "kind", "site", "width", "abs_mean"]]


def _row(points: pd.DataFrame, widths: list[float]) -> dict[str, Any]:
    """The fit of one layer."""
    first = points.iloc[0]
    # What is 0 has no logarithm to fit.
    fitted = points[np.isfinite(points["abs_mean"]) & (points["abs_mean"] > 0)]
    found: dict[str, Any] = {
        "layer": first["layer"],
        "kind": first["kind"],
        "site": first["site"],
        "reason": "; ".join(_left_out(points, widths)),
        "widths": "",
        "points": 0,
    }
    if fitted["width"].nunique() < 2:
        return found | {"reason": "; ".join([*_left_out(points, widths), "no two widths are left"])}
    x, y = np.log(fitted["width"].to_numpy(float)), np.log(fitted["abs_mean"].to_numpy(float))
    slope, error, r2 = _line(x, y)
    # Of logarithms, to which the line is fitted.
    middle = fitted.assign(log=y).groupby("width")["log"].mean()
    return found | {
        "slope": slope,
        "standard_error": error,
        "r2": r2,
        "widths": "; ".join(f"{width:g}" for width in middle.index),
        "points": len(fitted),
        "smallest": float(np.exp(middle.iloc[0])),
        "largest": float(np.exp(middle.iloc[-1])),
    }


def _line(x: Any, y: Any) -> tuple[float, float, float]:
    """Slope by least squares, its standard error (divisor n - 2) and the share of the variance explained."""
    # Centred first, for sums of large squares would cancel.
    x, y = x - x.mean(), y - y.mean()
    across, total = float(x @ x), float(y @ y)
    slope = float(x @ y) / across
    rest = float(((y - slope * x) ** 2).sum())
    error = np.sqrt(rest / (len(x) - 2) / across) if len(x) > 2 else np.nan
    return slope, float(error), 1 - rest / total if total > 0 else np.nan


def _left_out(points: pd.DataFrame, widths: list[float]) -> Iterator[str]:
    """Which points of a layer are not fitted, and why."""
    missing = [width for width in widths if width not in set(points["width"])]
    zero = sorted(set(points.loc[points["abs_mean"] == 0, "width"]))
    unknown = sorted(set(points.loc[~np.isfinite(points["abs_mean"]), "width"]))
    for said, of in (("not measured at", missing), ("all zeros at", zero), ("no finite value at", unknown)):
        if of:
            yield f"{said} {', '.join(f'{width:g}' for width in of)}"


def _nothing_shared(tables: Mapping[float, list[Tables]], points: pd.DataFrame, site: str) -> str:
    """Why no layer has a slope, in a sentence."""
    names = {
        width: list(dict.fromkeys(points.loc[points["width"] == width, "layer"]))[:3] for width in tables
    }
    shown = "; ".join(f"{width:g}: {', '.join(map(repr, of)) or 'none'}" for width, of in names.items())
    shared = points.groupby("layer")["width"].nunique().max() > 1
    why = "every layer that they share is all zeros or NaN" if shared else "layers are matched by name"
    return f"no layer has a mean |x| above 0 at its {site} at two widths ({shown}); {why}"
