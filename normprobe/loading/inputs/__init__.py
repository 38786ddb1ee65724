"""Batches for a loaded model, from files, from a callable, or from the set that ships with normprobe."""

from normprobe.loading.inputs.load import check_data, load_inputs
from normprobe.loading.inputs.sources import Batch, Inputs

__all__ = ["Batch", "Inputs", "check_data", "load_inputs"]
