"""Settings that all tests share."""

from __future__ import annotations

import os

# Before torch is loaded: its threads spin, and many test processes on few cores would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from hypothesis import HealthCheck, settings

# Registers the views of its norms, before a test puts a copy of the registry in its place for a while.
import normprobe.layers.norms.replacements  # noqa: F401

# A shared machine may pause for longer than any deadline; the same examples every time keep a red run red.
settings.register_profile(
    "normprobe", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("normprobe")
