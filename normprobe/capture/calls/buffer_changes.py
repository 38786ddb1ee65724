"""How a batch norm's running statistics move while a probe is on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from normprobe.layers.module_attributes import attribute, is_lazy

_STATISTICS = ("running_mean", "running_var")
_WITHOUT = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
"""Classes (no subclass) that have none, most layers of most models."""


class BufferChanges(NamedTuple):
    """Whether running statistics changed, and how often the module counted an update; None: it has none."""

    moved: bool | None
    updates: int | None


@dataclass(frozen=True, eq=False)
class _Since:
    """The statistics on entry, None outside a block, and what happened in the blocks before."""

    entry: dict[str, Tensor] | None = None
    moved: bool = False
    updates: int = 0


@dataclass(eq=False)
class BufferTracker:
    """Compares a module's running statistics with those on entry, over all entries of a probe."""

    module: nn.Module
    _since: _Since = field(default_factory=_Since)

    def enter(self) -> None:
        """Copy the statistics as they are: an update writes them in place."""
        entry = {name: value.detach().clone() for name, value in self._held().items()}
        self._since = replace(self._since, entry=entry)

    def leave(self) -> None:
        """Add up what happened since entry."""
        if self._since.entry is not None:
            changes = self.changes()
            # In one step: cut short, it is done again, and must not count twice.
            self._since = _Since(None, bool(changes.moved), changes.updates or 0)

    def restart(self) -> None:
        """Count from now on."""
        inside, self._since = self._since.entry is not None, _Since()
        if inside:
            self.enter()

    def changes(self) -> BufferChanges:
        """What happened in all entries so far."""
        held, entry = self._held(), self._since.entry or {}
        moved = any(
            # Values, not versions: loading a state dict with the same numbers moves nothing.
            name in entry and not torch.equal(entry[name], held[name])
            for name in _STATISTICS
            if name in held
        )
        updates = self._since.updates
        if "num_batches_tracked" in held and "num_batches_tracked" in entry:
            updates += int(held["num_batches_tracked"]) - int(entry["num_batches_tracked"])
        has = any(name in held for name in _STATISTICS)
        return BufferChanges(
            self._since.moved or moved if has else None, updates if "num_batches_tracked" in held else None
        )

    def _held(self) -> dict[str, Tensor]:
        """The module's statistics by name, those with numbers."""
        if type(self.module) in _WITHOUT:
            return {}
        found = {name: attribute(self.module, name) for name in (*_STATISTICS, "num_batches_tracked")}
        return {
            name: value
            for name, value in found.items()
            if isinstance(value, Tensor) and not is_lazy(value) and not value.is_meta
        }
