"""Pictures of the tables: each a function of tables, and axes if wanted, to axes.

A recording, its tables, or a comparison come in; axes go out, or for the report a `Rendered`: words, facts,
inline SVG, files. `registry` lists the figures of a report, `plots` draws them, `data` has their numbers,
`drawing` what all share. They live outside pyplot: nothing stays open and no setting of matplotlib changes.
`of_recording` has them as methods of a recording: ``recording.figures.depth_profile()``.
"""

from normprobe.figures.of_recording import RecordingFigures
from normprobe.figures.plots.depth_profile import depth_profile
from normprobe.figures.plots.divergence_profile import divergence_profile
from normprobe.figures.plots.linear_by_role import linear_by_role
from normprobe.figures.plots.norm_comparison import batch_sensitivity, norm_variances, order_kept
from normprobe.figures.plots.norm_panel import norm_panel
from normprobe.figures.plots.outlier_map import outlier_map
from normprobe.figures.plots.over_time import over_time
from normprobe.figures.plots.running_statistics import running_statistics
from normprobe.figures.plots.samples_through_depth import samples_through_depth
from normprobe.figures.plots.width_scaling import width_scaling
from normprobe.figures.rendering import Rendered, available, render, render_divergence

__all__ = [
    "RecordingFigures",
    "Rendered",
    "available",
    "batch_sensitivity",
    "depth_profile",
    "divergence_profile",
    "linear_by_role",
    "norm_panel",
    "norm_variances",
    "order_kept",
    "outlier_map",
    "over_time",
    "render",
    "render_divergence",
    "running_statistics",
    "samples_through_depth",
    "width_scaling",
]


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
