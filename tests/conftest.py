"""Settings that all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A shared machine may pause for longer than any deadline; the same examples every time keep a red run red.
settings.register_profile(
    "normprobe", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("normprobe")
