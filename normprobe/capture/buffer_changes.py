"""How a batch norm's running statistics move while a probe is on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

_STATISTICS = ("running_mean", "running_var")


class BufferChanges(NamedTuple):
    """Whether running statistics changed, and how often the module counted an update; None: it has none."""

    moved: bool | None
    updates: int | None


class BufferTracker:
    """Compares a module's running statistics with those on entry, over all entries of a probe."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._entry: dict[str, Tensor] | None = None
        self._moved, self._updates = False, 0

    def enter(self) -> None:
        """Copy the statistics as they are: an update writes them in place."""
        self._entry = {name: value.detach().clone() for name, value in self._held().items()}

    def leave(self) -> None:
        """Add up what happened since entry."""
        # Before the copy is dropped: changes are counted against it.
        changes = self.changes()
        self._moved, self._updates = bool(changes.moved), changes.updates or 0
        self._entry = None

    def changes(self) -> BufferChanges:
        """What happened in all entries so far."""
        held, entry = self._held(), self._entry or {}
        moved = any(
            # Values, not versions: loading a state dict with the same numbers moves nothing.
            name in entry and not torch.equal(entry[name], held[name])
            for name in _STATISTICS
            if name in held
        )
        updates = self._updates
        if "num_batches_tracked" in held and "num_batches_tracked" in entry:
            updates += int(held["num_batches_tracked"]) - int(entry["num_batches_tracked"])
        has = any(name in held for name in _STATISTICS)
        return BufferChanges(
            self._moved or moved if has else None, updates if "num_batches_tracked" in held else None
        )

    def _held(self) -> dict[str, Tensor]:
        """The module's statistics by name, those with numbers."""
        found = {name: getattr(self._module, name, None) for name in (*_STATISTICS, "num_batches_tracked")}
        return {
            name: value for name, value in found.items() if isinstance(value, Tensor) and not value.is_meta
        }
