"""What a model stores in a few numbers a tensor, which say whether two models hold the same, or how far not.

Two models need not be in memory at once. Of each tensor a sketch is kept: its numbers with random signs, the
same for every tensor of its shape, added up in 64 places. The difference of two sketches is the sketch of the
difference, and its sum of squares has that of the difference as its expectation, with a standard deviation
of sqrt(2 / 64), 18 % (Charikar, Chen and Farach-Colton 2002, Finding frequent items in data streams).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd as _Dropout

from normprobe.layers.layer import modules_of
from normprobe.layers.module_attributes import is_lazy, keras_variables

PLACES = 64
_CHUNK = 1 << 18
_COUNTERS = {"num_batches_tracked"}
"""Buffers that nothing is computed from."""


@dataclass(frozen=True)
class StoredTensor:
    """A parameter or buffer.

    Attributes:
        shape: its sizes.
        dtype: of its numbers, as torch names it.
        size: how many numbers it holds.
        power: sum of the squares of its finite numbers.
        sketch: sums of its finite numbers with random signs, float64, shape (64,).
        nonfinite: how many NaN or infinite numbers it holds.
        same_as: a number that is the same for all names of one tensor.
    """

    shape: tuple[int, ...]
    dtype: str
    size: int
    power: float
    sketch: NDArray[np.float64]
    nonfinite: int
    same_as: int


class StoredTensors(dict[tuple[str, str], StoredTensor]):
    """What a model stores, by name of the module, without those of wrappers, and name of the tensor in it.

    Attributes:
        settings: class and settings, as torch prints them, of each module, by its name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, tuple[str, str]] = {}


def stored_tensors(model: nn.Module, without: Collection[str] = ()) -> StoredTensors:
    """Sketch the parameters and buffers of all modules; a tied one is read once.

    Tensors without numbers (on the meta device, lazy) and those of types that cannot be read as numbers are
    left out. Nothing of the model is kept or changed, and some 10 MiB are needed beside it (for a tensor
    that is not contiguous, a copy of it).

    Args:
        model: the model.
        without: names of modules whose own tensors are left out.
    """
    read: dict[int, StoredTensor | None] = {}
    found = StoredTensors()
    for named in modules_of(model):
        module = named.names[0]
        if module in without:
            continue
        found.settings[module] = type(named.module).__qualname__, _settings(named.module)
        for name, tensor in _own(named.module):
            if id(tensor) not in read:
                read[id(tensor)] = _sketched(tensor, len(read))
            sketch = read[id(tensor)]
            if sketch is not None:
                found[module, name] = sketch
    return found


def _settings(module: nn.Module) -> str:
    """What a module prints of itself between brackets; "" where its own code fails."""
    # In evaluation mode, in which models are compared, the share that is dropped does nothing.
    if isinstance(module, _Dropout) and not module.training:
        return ""
    try:
        # An address differs from run to run.
        return re.sub(r" at 0x[0-9a-fA-F]+", "", str(module.extra_repr()))
    except Exception:
        return ""


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a module itself holds."""
    for store in (module._parameters, module._buffers, keras_variables(module)):
        for name, tensor in store.items():
            if isinstance(tensor, Tensor) and name not in _COUNTERS and not is_lazy(tensor):
                yield name, tensor


@torch.no_grad()
def _sketched(tensor: Tensor, number: int) -> StoredTensor | None:
    """The sketch of a tensor; None if it holds no numbers that can be read."""
    if tensor.is_meta:
        return None
    # Subclasses and quantized tensors of others raise whatever they like.
    try:
        plain = tensor.detach()
        if plain.is_quantized:
            plain = plain.dequantize()
        if plain.is_complex():
            plain = torch.view_as_real(plain)
        numbers = plain.reshape(-1)
        power, sums, nonfinite = _summed(numbers)
    except (RuntimeError, NotImplementedError, TypeError, AttributeError, ValueError):
        return None
    dtype = str(tensor.dtype).removeprefix("torch.")
    return StoredTensor(tuple(tensor.shape), dtype, numbers.numel(), power, sums, nonfinite, number)


def _summed(numbers: Tensor) -> tuple[float, NDArray[np.float64], int]:
    """Sum of squares, sketch, and count of what is not finite."""
    # A generator of its own: that of torch is the user's.
    signs = torch.Generator().manual_seed(0)
    power, nonfinite = 0.0, 0
    sums = torch.zeros(PLACES, dtype=torch.float64)
    for start in range(0, numbers.numel(), _CHUNK):
        # First to the CPU: some devices have no float64.
        values = numbers[start : start + _CHUNK].to("cpu").to(torch.float64)
        finite = values.isfinite()
        if not finite.all():
            nonfinite += int((~finite).sum())
            values = values.where(finite, 0.0)
        power += float(values.dot(values))
        drawn = torch.randint(0, 2, values.shape, dtype=torch.int8, generator=signs)
        signed = torch.where(drawn.bool(), values, -values)
        whole = len(signed) // PLACES * PLACES
        sums += signed[:whole].view(-1, PLACES).sum(0)
        sums[: len(signed) - whole] += signed[whole:]
    return power, sums.numpy(), nonfinite
