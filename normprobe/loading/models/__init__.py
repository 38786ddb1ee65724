"""A model from a checkpoint on disk, from the hub, or from a Python callable."""

from normprobe.loading.models.import_path import call_user_code, is_reference, resolve
from normprobe.loading.models.load import LoadedModel, load_model
from normprobe.loading.models.progress_bars import without_bars
from normprobe.loading.models.save import check_new_weights, save_weights

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
