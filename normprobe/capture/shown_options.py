"""The options of a probe as its recording holds them."""

from __future__ import annotations

from typing import Any

from normprobe.capture.forwards.probe_options import shown
from normprobe.capture.hook_callbacks import HookCallbacks


def shown_options(
    callbacks: HookCallbacks, chosen: tuple[Any, Any, Any], mask: Any, seed: int
) -> dict[str, Any]:
    """The options of a probe, as JSON holds them.

    Args:
        callbacks: what its hooks do.
        chosen: what it measures: the options ``layers``, ``kinds`` and ``residual``.
        mask: the option of this name.
        seed: likewise.
    """
    layers, kinds, residual = chosen
    options = {
        "layers": shown(layers),
        "kinds": shown(kinds),
        "mask": shown(mask),
        "samples": "all" if callbacks.samples is None else callbacks.samples,
        "values": callbacks.values,
        "every": callbacks.forwards.phases.every,
        "window": callbacks.forwards.phases.window,
        "seed": seed,
        "gradients": callbacks.gradients is not None,
        **({"residual": shown(residual)} if residual else {}),
        "experts": callbacks.experts is not None,
        **callbacks.further.distributions._asdict(),
    }
    groups = callbacks.further.groups
    return options if groups is None else options | {"groups": groups.shown}
