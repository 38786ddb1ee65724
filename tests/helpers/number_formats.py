"""Real casts of tensors to formats of few bits, written from their definitions."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], dtype=torch.float64)
"""The magnitudes that E2M1 has; those of even place end in a 0 bit."""


def cast(x: Tensor, name: str) -> Tensor:
    """Values as a cast without a scale leaves them, what is beyond the largest number cut off; float64."""
    if name == "int8":
        return x.double().round().clamp(-127, 127)
    if name == "e2m1":
        return to_e2m1(x.double())
    dtype = DTYPES[name]
    largest = torch.finfo(dtype).max
    return x.double().clamp(-largest, largest).float().to(dtype).double()


def to_e2m1(x: Tensor) -> Tensor:
    """The nearest numbers of E2M1, of two the one that ends in a 0 bit, by looking at all of them."""
    distance = (x.abs().clamp(max=6)[..., None] - E2M1).abs()
    # Ties: a hair is taken off the distance of numbers with an even code.
    even = torch.arange(8) % 2 == 0
    nearest = (distance - torch.where(even, 1e-12, 0.0)).argmin(-1)
    return E2M1[nearest] * x.sign()


def per_tensor(x: Tensor, name: str) -> Tensor:
    """Values under one scale for the tensor."""
    return _scaled(x.double(), name, x.double().abs().max())


def per_channel(x: Tensor, name: str) -> Tensor:
    """Values (rows, features) under a scale for each feature."""
    return _scaled(x.double(), name, x.double().abs().amax(0))


def _scaled(x: Tensor, name: str, peak: Tensor) -> Tensor:
    if name in ("fp16", "bf16"):
        return cast(x, name)
    if name == "mxfp8":
        scale = _e8m0(peak)
        return cast(x / scale, "fp8_e4m3") * scale
    largest = {"int8": 127.0, "fp8_e4m3": 448.0, "fp8_e5m2": 57344.0, "nvfp4": 6.0}[name]
    scale = torch.where(peak > 0, peak, largest) / largest
    return cast(x / scale, "e2m1" if name == "nvfp4" else name) * scale


def _e8m0(peak: Tensor) -> Tensor:
    """The scale of OCP MX 1.0, section 6.3: the largest power of two of the block ÷ that of E4M3."""
    return torch.exp2(torch.floor(torch.log2(torch.where(peak > 0, peak, 1.0))) - 8)


def mxfp8(x: Tensor) -> Tensor:
    """Values (rows, features) in blocks of 32 E4M3 numbers, each under a power of two."""
    blocks = x.double().reshape(len(x), -1, 32)
    scale = _e8m0(blocks.abs().amax(2, keepdim=True))
    return (cast(blocks / scale, "fp8_e4m3") * scale).reshape(x.shape)


def nvfp4(x: Tensor) -> Tensor:
    """Values (rows, features) in blocks of 16 E2M1 numbers, each under an E4M3 scale and the tensor's."""
    blocks = x.double().reshape(len(x), -1, 16)
    tensor = x.double().abs().max() / (6 * 448)
    scale = cast(blocks.abs().amax(2, keepdim=True) / 6 / tensor, "fp8_e4m3") * tensor
    held = to_e2m1(blocks / torch.where(scale > 0, scale, 1.0)) * scale
    return held.reshape(x.shape)


def static_blocks(x: Tensor, name: str) -> Tensor:
    """Values (rows, features) in blocks under one scale for all rows each."""
    size = 32 if name == "mxfp8" else 16
    blocks = x.double().reshape(len(x), -1, size)
    return _scaled(blocks, name, blocks.abs().amax((0, 2), keepdim=True)).reshape(x.shape)


def snr(x: Tensor, held: Tensor) -> float:
    """Signal over noise in dB."""
    x = x.double()
    return float(10 * torch.log10((x**2).sum() / ((held - x) ** 2).sum()))


def real(x: Tensor, name: str) -> dict[str, float]:
    """What real casts of values (rows, features) give, by the columns of the table of fits."""
    one, each = snr(x, per_tensor(x, name)), snr(x, per_channel(x, name))
    if name not in ("mxfp8", "nvfp4"):
        return {"snr_db": one, "channel_gain_db": each - one}
    found = {"snr_db": one, "static_block_snr_db": snr(x, static_blocks(x, name))}
    found["block_snr_db"] = snr(x, mxfp8(x) if name == "mxfp8" else nvfp4(x))
    return found | {"block_gain_db": found["block_snr_db"] - one}
