"""NaN and Inf among the numbers that a model stores, looked for only once some were measured."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from torch import Tensor, nn

from normprobe.layers.layer import modules_of
from normprobe.tables.records import LayerRecord, valid_name


def stored_nonfinite(model: nn.Module) -> dict[str, int]:
    """How many NaN or infinite numbers each tensor that a model stores holds, by name; those with any."""
    found = {}
    for named in modules_of(model):
        own = chain(named.module._parameters.items(), named.module._buffers.items())
        for name, tensor in own:
            count = _count(tensor)
            if count:
                found[valid_name(".".join(filter(None, (named.names[0], name))))] = count
    return found


def any_nonfinite(records: Iterable[LayerRecord]) -> bool:
    """Whether NaN or Inf was measured anywhere, in padding too."""
    return any(
        bool(site.nonfinite_masked) or bool(site.features.nonfinite.any())
        for record in records
        for site in record.sites
    )


def _count(tensor: Tensor | None) -> int:
    """How many numbers of a tensor are NaN or infinite; 0 of one that cannot be asked."""
    try:
        if tensor is None or tensor.is_meta or not tensor.is_floating_point():
            return 0
        return int((~tensor.detach().isfinite()).sum())
    except Exception:  # of packed, sharded and lazy tensors, whatever their classes raise
        return 0
