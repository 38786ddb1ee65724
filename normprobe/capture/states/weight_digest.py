"""A cheap digest of a Linear's weight, by which recordings of different weights are told apart."""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor, nn

from normprobe.layers.layer import Layer
from normprobe.layers.module_attributes import stored

_ENTRIES = 64


def weight_digest(layer: Layer) -> int | None:
    """A number that follows from some entries of a Linear's weight; None where it has no plain matrix.

    Entries at equal distances over the whole matrix: training changes nearly every one. Shards of a matrix
    (of DTensors, or flattened as FSDP has them) differ between ranks that run one model: they have none.
    Norms need none, since the tables hold what they apply.
    """
    weight = stored(layer.module, layer.parameter or "weight") if layer.view.kind == "linear" else None
    if not isinstance(weight, Tensor) or type(weight) not in (Tensor, nn.Parameter):
        return None
    plain = weight.dim() == 2 and weight.layout is torch.strided and weight.is_floating_point()
    # FSDP lets the memory of a matrix go between forwards, and leaves its sizes.
    if not plain or weight.is_meta or not weight.numel() or not weight.untyped_storage().nbytes():
        return None
    places = torch.linspace(0, weight.numel() - 1, min(_ENTRIES, weight.numel()), dtype=torch.float64).long()
    rows, columns = (part.to(weight.device) for part in (places // weight.shape[1], places % weight.shape[1]))
    entries = weight.detach()[rows, columns].double().cpu().numpy()
    # 63 bits, which tables hold as int64.
    return int.from_bytes(blake2b(entries.tobytes(), digest_size=8).digest(), "little") >> 1
