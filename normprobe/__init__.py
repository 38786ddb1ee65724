"""What normalization does inside a network: exact statistics of every Linear and norm layer.

In: a model and batches, or a file. Out: recordings, comparisons, findings, figures, reports. The names below
load on first use (PEP 562), so that ``import normprobe`` is cheap.
"""

from __future__ import annotations

import importlib.metadata
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

# For type checkers and editors, which do not run `__getattr__`.
if TYPE_CHECKING:
    from normprobe.capture.states.site_registry import register_site
    from normprobe.comparison import Comparison, compare
    from normprobe.divergence import Divergence
    from normprobe.errors import (
        DataError,
        FindingError,
        ModelError,
        NoLayersError,
        NormprobeError,
        NormprobeWarning,
        NoSamplesError,
        RecordingError,
        ViewError,
    )
    from normprobe.gathering.gather import gather
    from normprobe.integrations.metrics import histograms, scalars
    from normprobe.layers.norms.swap import swap_norms
    from normprobe.layers.view_registry import register_view
    from normprobe.live_comparison import compare_live
    from normprobe.probe import Probe, record
    from normprobe.recording import Recording, load, merge
    from normprobe.tables.measures.width_scaling import scaling

_HOME = {
    "Comparison": "comparison",
    "DataError": "errors",
    "Divergence": "divergence",
    "FindingError": "errors",
    "ModelError": "errors",
    "NoLayersError": "errors",
    "NoSamplesError": "errors",
    "NormprobeError": "errors",
    "NormprobeWarning": "errors",
    "Probe": "probe",
    "Recording": "recording",
    "RecordingError": "errors",
    "ViewError": "errors",
    "compare": "comparison",
    "compare_live": "live_comparison",
    "gather": "gathering.gather",
    "histograms": "integrations.metrics",
    "load": "recording",
    "merge": "recording",
    "record": "probe",
    "register_site": "capture.states.site_registry",
    "register_view": "layers.view_registry",
    "scalars": "integrations.metrics",
    "scaling": "tables.measures.width_scaling",
    "swap_norms": "layers.norms.swap",
}

__all__ = [
    "Comparison",
    "DataError",
    "Divergence",
    "FindingError",
    "ModelError",
    "NoLayersError",
    "NoSamplesError",
    "NormprobeError",
    "NormprobeWarning",
    "Probe",
    "Recording",
    "RecordingError",
    "ViewError",
    "__version__",
    "compare",
    "compare_live",
    "gather",
    "histograms",
    "load",
    "merge",
    "record",
    "register_site",
    "register_view",
    "scalars",
    "scaling",
    "swap_norms",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds ``name`` and return it."""
    if name in _HOME:
        return getattr(importlib.import_module(f"normprobe.{_HOME[name]}"), name)
    if name == "__version__":
        # What is installed says it, so that it stands in pyproject.toml alone.
        return importlib.metadata.version("normprobe")
    # Packages that users reach by attribute without an import of their own.
    if name in {"batchnorm", "figures", "findings"}:
        return importlib.import_module(f"normprobe.{name}")
    raise AttributeError(f"module 'normprobe' has no attribute {name!r}")


def _hooks_of_0_1(name: str) -> Any:
    """The hook that a model pickled inside a block of normprobe 0.1 names by its path of then."""
    if name == "Hook":
        return importlib.import_module("normprobe.capture.hooks.handles").Hook
    raise AttributeError(f"module 'normprobe.hooks' has no attribute {name!r}")


# Looked up by name, without a file of its own: whoever unpickles such a model asks for the module.
_ALIAS = sys.modules.setdefault("normprobe.hooks", ModuleType("normprobe.hooks"))
_ALIAS.__getattr__ = _hooks_of_0_1  # type: ignore[method-assign]


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted([*__all__, "batchnorm", "figures", "findings"])
