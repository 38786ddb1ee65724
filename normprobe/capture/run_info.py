"""The circumstances of a recording: the model, the data it saw, versions and the date."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from normprobe.capture.forward import Forward
from normprobe.kernels import dispatch
from normprobe.samples.fingerprint import digest
from normprobe.samples.pad_tokens import PadToken, count_padding, pad_token


def describe(model: nn.Module) -> dict[str, Any]:
    """Facts about a model and the versions that ran it, as JSON holds them."""
    inner = getattr(model, "_orig_mod", model)
    tensors = list(inner.parameters()) or list(inner.buffers())
    transformers = sys.modules.get("transformers")
    return {
        "name": type(inner).__name__,
        "model": type(inner).__name__,
        "data": None,
        "device": "; ".join(dict.fromkeys(str(tensor.device) for tensor in tensors)) or "cpu",
        "dtype": "; ".join(dict.fromkeys(str(t.dtype).removeprefix("torch.") for t in tensors)),
        "meant_dtype": _meant(inner),
        "kernel": dispatch.name(),
        "versions": {
            "normprobe": metadata.version("normprobe"),
            "torch": str(torch.__version__),
            "transformers": getattr(transformers, "__version__", None),
            "python": platform.python_version(),
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": None,
        "warnings": [],
    }


_SMALL, _MOST_WAITING = 1 << 14, 1 << 16
"""Numbers of a first tensor that waits, and how many wait in all."""


class _Few(NamedTuple):
    """A small first tensor that waits to be fingerprinted with others, its first example and mask."""

    owner: nn.Module
    lead: Tensor
    first: int
    real: NDArray[np.bool_] | None

    def follows(self, other: _Few) -> bool:
        """Whether both can be taken for one batch."""
        masks = [None if few.real is None else few.real.shape for few in (self, other)]
        alike = self.owner is other.owner and self.lead.dtype is other.lead.dtype and masks[0] == masks[1]
        return alike and self.lead.shape == other.lead.shape and self.first == other.first + len(other.lead)


def _meant(model: nn.Module) -> str | None:
    """The dtype that a model's configuration asks for; None where it says nothing."""
    config = getattr(model, "config", None)
    meant = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    return str(meant).removeprefix("torch.") if isinstance(meant, torch.dtype | str) else None


class RunInfo:
    """Counts and fingerprints the data of the measured forwards."""

    def __init__(self) -> None:
        self._waiting: list[_Few] = []
        self._numbers_waiting = 0
        self._counts = {"examples": 0, "rows": 0, "padding": 0}
        self._units = {"unit": "position", "example_unit": "example"}
        self._digest = torch.zeros((), dtype=torch.int64)
        self._pads: dict[torch.device, Tensor] = {}
        self._pad_of: dict[int, PadToken | None] = {}

    def add(self, forward: Forward) -> None:
        """Count the examples and positions of a forward, and fingerprint its first tensor."""
        self._count(forward, 1)
        lead = forward.batch.lead
        if lead is not None:
            tokens = lead.dim() == 2 and not lead.is_floating_point()
            image = lead.dim() == 4 and lead.shape[1] in (1, 3)
            self._units = {
                "unit": "token" if tokens else "position",
                "example_unit": "image" if image else "example",
            }

    def withdraw(self, forward: Forward) -> None:
        """Take back what was counted of a forward."""
        self._settle()
        self._count(forward, -1)

    def _count(self, forward: Forward, times: int) -> None:
        batch, mask = forward.batch, forward.masks.own
        lead, rows, padding = batch.lead, batch.size, 0
        if mask is not None:
            rows = mask.real.size if mask.full else int(mask.real.sum())
            padding = mask.real.size - rows
        elif lead is not None and (lead.dim() == 3 or (lead.dim() == 2 and not lead.is_floating_point())):
            rows = batch.size * (batch.time or 1)
        for name, count in (("examples", batch.size), ("rows", rows), ("padding", padding)):
            self._counts[name] += times * count
        if lead is None:
            return
        real = None if mask is None or batch.packed is not None or mask.full else mask.real
        if times == 1 and not batch.swapped and _is_small(lead):
            self._waiting.append(_Few(forward.state.owner, lead.detach().clone(), forward.first, real))
            self._numbers_waiting += max(lead.numel(), _MOST_WAITING >> 8)
            if self._numbers_waiting >= _MOST_WAITING:
                self._settle()
        else:
            found = digest(lead, forward.first, time_first=batch.swapped, real=real)
            self._digest = self._digest + times * found.cpu()
            self._count_pads(forward.state.owner, lead, real, times)

    def _settle(self) -> None:
        """Fingerprint what waits: tokens by the ten thousand, not forward by forward."""
        waiting, self._waiting, self._numbers_waiting = self._waiting, [], 0
        while waiting:
            run = 1
            while run < len(waiting) and waiting[run].follows(waiting[run - 1]):
                run += 1
            alike, waiting = waiting[:run], waiting[run:]
            lead = torch.cat([few.lead for few in alike])
            masks = [few.real for few in alike if few.real is not None]
            real = np.concatenate(masks) if masks else None
            self._digest = self._digest + digest(lead, alike[0].first, real=real)
            self._count_pads(alike[0].owner, lead, real, 1)

    def _count_pads(self, owner: nn.Module, ids: Tensor, real: NDArray[np.bool_] | None, times: int) -> None:
        """Count the padding tokens that no mask leaves out, without waiting for the device."""
        if ids.is_meta:
            return
        if id(owner) not in self._pad_of:
            self._pad_of[id(owner)] = pad_token(owner)
        pad = self._pad_of[id(owner)]
        if pad is not None and ids.dim() == 2 and not ids.is_floating_point():
            found = times * count_padding(ids, pad, real)
            self._pads[ids.device] = self._pads.get(ids.device, torch.zeros_like(found)) + found

    def facts(self, part: str) -> dict[str, Any]:
        """Counts, units and the digest of this part, as JSON holds them."""
        self._settle()
        digests = {part: [self._counts["examples"], int(self._digest)]}
        known = any(pad is not None for pad in self._pad_of.values())
        pads = sum(int(count) for count in self._pads.values()) if known else None
        return {**self._counts, **self._units, "digests": digests, "pad_tokens": pads}


def _is_small(lead: Tensor) -> bool:
    """Whether a first tensor is worth keeping back: a few numbers in the host's memory."""
    return (
        type(lead) is Tensor
        and lead.is_cpu
        and lead.dim() > 1
        and lead.numel() <= _SMALL
        and not lead.is_nested
    )
