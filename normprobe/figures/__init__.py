"""Pictures of the tables: each a function of tables, and axes if wanted, to axes.

They live outside pyplot: nothing stays open and no setting of matplotlib changes. In a notebook the last line
``figures.depth_profile(recording)[0].figure`` shows one.
"""

from normprobe.figures.batches import batch_sensitivity
from normprobe.figures.divergence import divergence_profile
from normprobe.figures.linear import linear_by_role
from normprobe.figures.outliers import outlier_map
from normprobe.figures.panel import norm_panel
from normprobe.figures.profile import depth_profile
from normprobe.figures.rendering import Rendered, available, render, render_divergence
from normprobe.figures.running import running_statistics
from normprobe.figures.sides import norm_variances, order_kept
from normprobe.figures.stream import samples_through_depth

__all__ = [
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
    "render",
    "render_divergence",
    "running_statistics",
    "samples_through_depth",
]
