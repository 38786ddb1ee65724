"""A model from a checkpoint on disk, from the hub, or from a Python callable."""

from normprobe.models.loading import LoadedModel, load_model
from normprobe.models.quiet import without_bars
from normprobe.models.reference import call_user_code, is_reference, resolve
from normprobe.models.saving import check_new_weights, save_weights

__all__ = [
    "LoadedModel",
    "call_user_code",
    "check_new_weights",
    "is_reference",
    "load_model",
    "resolve",
    "save_weights",
    "without_bars",
]
