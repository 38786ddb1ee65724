"""What the loaders take, without importing torch, so that the command line can list it at once."""

from __future__ import annotations

DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")
"""The dtypes a model may be loaded in; ``auto`` is the one that its weights are stored in."""

PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"})
"""Endings of files that may be pickles: to load one is to run whatever code it holds."""
