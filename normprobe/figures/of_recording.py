"""The figures of one recording as methods, for people at a prompt or in a notebook."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from normprobe.figures.plots.depth_profile import depth_profile
from normprobe.figures.plots.linear_by_role import linear_by_role
from normprobe.figures.plots.norm_panel import norm_panel
from normprobe.figures.plots.outlier_map import outlier_map
from normprobe.figures.plots.over_time import over_time
from normprobe.figures.plots.running_statistics import running_statistics
from normprobe.figures.plots.samples_through_depth import samples_through_depth
from normprobe.tables.frames import Tables


class RecordingFigures:
    """Each method draws one figure and returns it, so that a notebook's last line shows it.

    The functions of the same names in `normprobe.figures` say what each shows, and draw on axes of your own.
    Where a recording lacks what a figure needs, a ValueError says what.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def depth_profile(self) -> Figure:
        """Draw what each norm does with depth, before and after it, in four charts."""
        return _figure(depth_profile(self._tables))

    def outlier_map(self) -> Figure:
        """Draw the largest |value| of each feature ÷ the median feature's, layer by layer."""
        return _figure(outlier_map(self._tables))

    def samples_through_depth(self) -> Figure:
        """Draw the root mean square of the kept samples before each norm."""
        return _figure(samples_through_depth(self._tables))

    def running_statistics(self) -> Figure:
        """Draw how far BatchNorm's running statistics are from what the layers themselves observed."""
        return _figure(running_statistics(self._tables))

    def linear_by_role(self) -> Figure:
        """Draw the Linears over blocks, a line per role: variance of the output, unevenness of the input."""
        return _figure(linear_by_role(self._tables))

    def over_time(self) -> Figure:
        """Draw the variance before and after each norm over the steps of a run, and what changed most."""
        return _figure(over_time(self._tables))

    def norm_panel(self, layer: str) -> Figure:
        """Draw one norm before and after: its values, its features, its samples.

        Args:
            layer: name of a norm that fired.
        """
        return _figure(norm_panel(self._tables, layer))

    def __dir__(self) -> list[str]:
        return [name for name in vars(RecordingFigures) if not name.startswith("_")]


def _figure(axes: Any) -> Figure:
    """The figure that one axes, or an array of them, stands in."""
    first = axes if hasattr(axes, "figure") else axes.flat[0]
    figure: Figure = first.figure
    return figure
