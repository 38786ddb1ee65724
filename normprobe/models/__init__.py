"""A model from a checkpoint on disk, from the hub, or from a Python callable."""

from normprobe.models.loading import LoadedModel, load_model
from normprobe.models.quiet import without_bars
from normprobe.models.reference import call_user_code, is_reference, resolve

__all__ = ["LoadedModel", "call_user_code", "is_reference", "load_model", "resolve", "without_bars"]
