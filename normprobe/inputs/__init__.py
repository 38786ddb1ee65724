"""Batches for a loaded model, from files, from a callable, or from the set that ships with normprobe."""

from normprobe.inputs.loading import check_data, load_inputs
from normprobe.inputs.records import Batch, Inputs

__all__ = ["Batch", "Inputs", "check_data", "load_inputs"]
