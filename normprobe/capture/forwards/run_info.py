"""The circumstances of a recording: the model, the data it saw, versions and the date."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from normprobe.capture.forwards.forward import Forward
from normprobe.kernels import dispatch
from normprobe.layers.module_attributes import attribute
from normprobe.samples.fingerprint import digest
from normprobe.samples.pad_tokens import PadToken, count_padding, pad_token
from normprobe.tables.counted_notes import over_states
from normprobe.tables.records import valid_text


def describe(model: nn.Module) -> dict[str, Any]:
    """Facts about a model and the versions that ran it, as JSON holds them."""
    inner = attribute(model, "_orig_mod", model)
    tensors = list(inner.parameters()) or list(inner.buffers())
    transformers = sys.modules.get("transformers")
    return {
        "name": type(inner).__name__,
        "model": type(inner).__name__,
        "data": None,
        "device": "; ".join(dict.fromkeys(str(tensor.device) for tensor in tensors)) or "cpu",
        "dtype": "; ".join(dict.fromkeys(str(t.dtype).removeprefix("torch.") for t in tensors)),
        "meant_dtype": _configured_dtype(inner),
        "trainable": any(parameter.requires_grad for parameter in inner.parameters()),
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


_LONGEST = 300
"""Letters of a warning."""

_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_PLAIN = (*_WHOLE, torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Dtypes of first tensors that may be pending: not every operation knows the others."""

_OF_DATA = ("_pending", "_numbers_pending", "_counts", "_digest", "_pads", "_fingerprinted", "_warnings")
"""What of `RunInfo` is of the data alone, and not of the model."""

_SMALL, _MOST_PENDING = 1 << 14, 1 << 16
"""Numbers of a first tensor that may be pending, and how many may be in all."""


class _PendingBatch(NamedTuple):
    """A small first tensor that is fingerprinted later, with others; its first example and mask.

    The tensor is a clone: the model may overwrite its own.
    """

    owner: nn.Module
    lead: Tensor
    first: int
    real: NDArray[np.bool_] | None

    def follows(self, other: _PendingBatch) -> bool:
        """Whether both can be taken for one batch."""
        masks = [None if batch.real is None else batch.real.shape for batch in (self, other)]
        same = self.owner is other.owner and self.lead.dtype is other.lead.dtype and masks[0] == masks[1]
        return same and self.lead.shape == other.lead.shape and self.first == other.first + len(other.lead)


def _configured_dtype(model: nn.Module) -> str | None:
    """The dtype that a model's configuration asks for; None where it says nothing."""
    config = attribute(model, "config")
    dtype = attribute(config, "dtype")
    if dtype is None:
        # Stored, in older versions of transformers; newer ones have a property of this name that warns.
        dtype = attribute(config, "__dict__", {}).get("torch_dtype")
    return str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype | str) else None


class RunInfo:
    """Counts and fingerprints the data of the measured forwards; the probe's lock guards it."""

    def __init__(self) -> None:
        self._units = {"unit": "position", "example_unit": "example"}
        self._pad_of: dict[int, PadToken | None] = {}
        self._reset()

    def _reset(self) -> None:
        self._pending: list[_PendingBatch] = []
        self._numbers_pending = 0
        self._counts = {"examples": 0, "rows": 0, "padding": 0}
        # A sum that wraps, so that forwards may come in any order and one can be withdrawn.
        self._digest = torch.zeros((), dtype=torch.int64)
        # By device, so that counting waits for none of them.
        self._pads: dict[torch.device, Tensor] = {}
        self._fingerprinted = True
        self._warnings: dict[str, None] = {}

    def take(self) -> dict[str, Any]:
        """Hand over what is known of the data so far, for `put`, and begin anew."""
        held = {name: getattr(self, name) for name in _OF_DATA}
        self._reset()
        return held

    def put(self, held: Mapping[str, Any]) -> None:
        """Go on with what was handed over."""
        for name, value in held.items():
            setattr(self, name, value)

    def note(self, what: str, error: Exception) -> None:
        """Warn once that something about the data is not known, because of an error."""
        message = str(error).splitlines()[0] if str(error) else "no message"
        self._warnings[valid_text(f"{what}: {type(error).__name__}: {message}")[:_LONGEST]] = None

    def note_unused_mask(self, name: str) -> None:
        """Warn once of an argument that looks like a mask of padding and is not used as one."""
        text = (
            f"the argument {name} looks like a mask of padding and was not used: hand it to Probe(mask=...)"
        )
        self._warnings[valid_text(text)[:_LONGEST]] = None

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
        self._flush()  # it may be pending
        self._count(forward, -1)

    def _count(self, forward: Forward, times: int) -> None:
        """Add a forward to the counts and the digest, or with ``times`` -1 subtract it."""
        batch, mask = forward.batch, forward.masks.own
        lead, rows, padding = batch.lead, batch.size, 0
        if type(lead).__name__ == "DTensor":  # of which no other process is to be asked
            lead = lead.to_local()  # type: ignore[union-attr]
        if mask is not None:
            rows = mask.real.size if mask.full else int(mask.real.sum())
            padding = mask.real.size - rows
        elif lead is not None and (lead.dim() == 3 or (lead.dim() == 2 and not lead.is_floating_point())):
            rows = batch.size * (batch.time or 1)
        for name, count in (("examples", batch.size), ("rows", rows), ("padding", padding)):
            self._counts[name] += times * count
        if lead is None:
            return
        # Packed data hold no padding, and a mask that leaves nothing out is none.
        real = None if mask is None or batch.packed is not None or mask.full else mask.real
        if times == 1 and not batch.time_first and _is_small(lead):
            kept = lead.detach().clone()
            self._pending.append(_PendingBatch(forward.state.owner, kept, forward.first, real))
            # A 256th each at least, so that no more than 256 tensors are pending, however small.
            self._numbers_pending += max(lead.numel(), _MOST_PENDING >> 8)
            if self._numbers_pending >= _MOST_PENDING:
                self._flush()
        else:
            owner, first = forward.state.owner, forward.first
            self._fingerprint(lead, first, real, owner, times=times, time_first=batch.time_first)

    def _flush(self) -> None:
        """Fingerprint what is pending: tokens by the ten thousand, not forward by forward."""
        pending, self._pending, self._numbers_pending = self._pending, [], 0
        while pending:
            run = 1
            while run < len(pending) and pending[run].follows(pending[run - 1]):
                run += 1
            joined, pending = pending[:run], pending[run:]
            lead = torch.cat([batch.lead for batch in joined])
            masks = [batch.real for batch in joined if batch.real is not None]
            real = np.concatenate(masks) if masks else None
            self._fingerprint(lead, joined[0].first, real, joined[0].owner)

    def _fingerprint(
        self,
        lead: Tensor,
        first: int,
        real: NDArray[np.bool_] | None,
        owner: nn.Module,
        *,
        times: int = 1,
        time_first: bool = False,
    ) -> None:
        """Add a first tensor to the digest, or say why it has none: the user's forward goes on either way."""
        try:
            of_batch = times * digest(lead, first, time_first=time_first, real=real).cpu()
            self._count_pads(owner, lead, real, times)
        except Exception as error:
            # One forward without: what is left would pass for the digest of less data.
            self._fingerprinted = False
            kind = f"{type(lead).__name__} of {lead.dtype} and layout {lead.layout}".replace("torch.", "")
            self.note(f"the data have no fingerprint, for the first argument of a forward is a {kind}", error)
        else:
            self._digest = self._digest + of_batch

    def _count_pads(self, owner: nn.Module, ids: Tensor, real: NDArray[np.bool_] | None, times: int) -> None:
        """Count the padding tokens that no mask leaves out, without waiting for the device."""
        if ids.is_meta:
            return
        if id(owner) not in self._pad_of:
            self._pad_of[id(owner)] = pad_token(owner)
        pad = self._pad_of[id(owner)]
        if pad is not None and ids.dim() == 2 and not ids.is_floating_point():
            count = times * count_padding(ids, pad, real)
            self._pads[ids.device] = self._pads.get(ids.device, torch.zeros_like(count)) + count

    def facts(self, part: str, weight_changes: int) -> dict[str, Any]:
        """Counts, units and the digest of this part, as JSON holds them.

        Args:
            part: its name.
            weight_changes: before how many measured forwards the model's weights had changed.
        """
        self._flush()
        said = over_states(weight_changes)
        # 0 stands for data that have no fingerprint.
        digests = {part: [self._counts["examples"], int(self._digest) if self._fingerprinted else 0]}
        known = any(pad is not None for pad in self._pad_of.values())
        pads = sum(int(count) for count in self._pads.values()) if known else None
        known_of_data = {"digests": digests, "pad_tokens": pads, "warnings": [*said, *self._warnings]}
        return {**self._counts, **self._units, **known_of_data, "weight_changes": weight_changes}


def _is_small(lead: Tensor) -> bool:
    """Whether a first tensor may be pending: a few numbers in the host's memory."""
    return (
        type(lead) is Tensor
        and lead.is_cpu
        and lead.dtype in _PLAIN
        and lead.layout is torch.strided
        and lead.dim() > 1
        and lead.numel() <= _SMALL
        and not lead.is_nested
    )
