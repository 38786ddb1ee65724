"""Hand-written norms of every way in which models normalize, each with what its first call must show."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def scales(width: int) -> Tensor:
    """Weights none of which is 0 or 1, and no two of which are equal."""
    return torch.linspace(0.3, 1.6, width) * torch.where(torch.arange(width) % 3 == 0, -1.0, 1.0)


class Base(nn.Module):
    """A weight, a shift and an eps, called as most norms call them."""

    def __init__(self, width: int = 12, *, shift: bool = True, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(scales(width))
        self.bias = nn.Parameter(scales(width).flip(0) / 2) if shift else None
        self.eps = eps

    def affine(self, values: Tensor, axis: int = -1, offset: float = 0.0) -> Tensor:
        shape = [1] * values.dim()
        shape[axis] = -1
        values = values * (self.weight + offset).reshape(shape)
        return values if self.bias is None else values + self.bias.reshape(shape)

    def spread(self, x: Tensor, axes: int | tuple[int, ...], *, centred: bool) -> Tensor:
        d = x - x.mean(axes, keepdim=True) if centred else x
        return d * (d.square().mean(axes, keepdim=True) + self.eps).rsqrt()


class Shiftless(Base):
    """Without a shift."""

    def __init__(self, width: int = 12) -> None:
        super().__init__(width, shift=False)


class PlainLayerNorm(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(self.spread(x, -1, centred=True))


class PlainRMSNorm(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(self.spread(x, -1, centred=False))


class UncentredLayerNorm(PlainRMSNorm):
    """T5's."""


class CentredRMSNorm(PlainLayerNorm):
    """A name that lies the other way."""


class UnitOffsetRMSNorm(Base):
    """Gemma's."""

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(self.spread(x, -1, centred=False), offset=1.0)


class UnitOffsetLayerNorm(Base):
    """Nemotron's."""

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(self.spread(x, -1, centred=True), offset=1.0)


class WeightlessRMSNorm(nn.Module):
    eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], eps=self.eps)


class NamelessStandardizer(nn.Module):
    """Known by nothing but its eps."""

    def __init__(self) -> None:
        super().__init__()
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], eps=self.eps)


class L2Norm(nn.Module):
    """Divides by the length, times the root of the number of features."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.gamma = nn.Parameter(scales(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=-1) * x.shape[-1] ** 0.5 * self.gamma


class UnitLengthNorm(nn.Module):
    """Divides by the length and scales by one learned number."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor([0.3]))

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=-1) * self.temperature


class StdNorm(Shiftless):
    """Divides by the standard deviation without subtracting the mean."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.weight * (x.var(-1, keepdim=True) + self.eps).rsqrt())


class OddScaleNorm(Base):
    """Scales by something that only it knows."""

    def forward(self, x: Tensor) -> Tensor:
        return self.spread(x, -1, centred=True) * self.weight.exp() + 3.0


class InputScaledRMSNorm(Shiftless):
    def forward(self, x: Tensor) -> Tensor:
        return self.spread(x * (1 + self.weight), -1, centred=False)


class GateAfterNorm(Base):
    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return self.affine(self.spread(x, -1, centred=False)) * functional.silu(gate)


class GateBeforeNorm(Base):
    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return self.affine(self.spread(x * functional.silu(gate), -1, centred=False))


class SigmoidGateNorm(Base):
    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return self.affine(self.spread(x, -1, centred=False)) * torch.sigmoid(gate)


class OddlyGatedNorm(Base):
    """A gate of its own make: only the moments of the output show that it normalizes."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return self.affine(self.spread(x * (gate.sin() + 2), -1, centred=False))


class AddNorm(Base):
    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        return self.affine(self.spread(x + residual, -1, centred=True)), x + residual


class GroupedRMSNorm(Base):
    group_size = 4

    def forward(self, x: Tensor) -> Tensor:
        parts = x.reshape(*x.shape[:-1], -1, self.group_size)
        return self.affine(self.spread(parts, -1, centred=False).reshape(x.shape))


class SecretlyGroupedRMSNorm(Base):
    def forward(self, x: Tensor) -> Tensor:
        parts = x.reshape(*x.shape[:-1], 3, -1)
        return self.affine(self.spread(parts, -1, centred=False).reshape(x.shape))


class ChannelsLayerNorm(nn.LayerNorm):
    """ConvNeXt's."""

    data_format = "channels_first"

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class MiddleLayerNorm(nn.LayerNorm):
    """SqueezeBERT's: nothing but what it does says that it reads axis 1."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class ChannelRMSNorm(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(self.spread(x, 1, centred=False), axis=1)


class PixelLayerNorm2d(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(self.spread(x, 1, centred=True), axis=1)


class FrozenBatchNorm2d(Base):
    """DETR's: plain module, everything a buffer, its eps a constant in the code."""

    def __init__(self, width: int = 12) -> None:
        super().__init__(width)
        del self.eps, self.weight, self.bias
        self.register_buffer("weight", scales(width))
        self.register_buffer("bias", scales(width).flip(0))
        self.register_buffer("running_mean", torch.linspace(-1, 1, width))
        self.register_buffer("running_var", torch.linspace(0.5, 2, width))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        scale = self.weight.reshape(shape) * (self.running_var.reshape(shape) + 1e-5).rsqrt()
        return x * scale + self.bias.reshape(shape) - self.running_mean.reshape(shape) * scale


class FrozenStatsNorm(FrozenBatchNorm2d):
    """The same along the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale + self.bias - self.running_mean * scale


class FixedMeanVarianceNorm(nn.Module):
    """Phi-4's: numbers found before training, under names of its own."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.register_buffer("global_mean", torch.linspace(-1, 1, width))
        self.register_buffer("global_invstd", torch.linspace(0.5, 2, width))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.global_mean) * self.global_invstd


class LastAxisBatchNorm(nn.BatchNorm1d):
    """A batch norm of (batch, time, features)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class OwnBatchNorm(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(self.spread(x, (0, 2, 3), centred=True), axis=1)


class StyleNorm(Base):
    """Instance norm under another name."""

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(self.spread(x, (2, 3), centred=True), axis=1)


class GlobalLayerNorm(Base):
    """Conv-TasNet's: over channels and time of an example, a group norm of one group."""

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(self.spread(x, (1, 2), centred=True), axis=1)


class ThreeGroupsNorm(Base):
    num_groups = 3

    def forward(self, x: Tensor) -> Tensor:
        return functional.group_norm(x, 3, self.weight, self.bias, self.eps)


class CumulativeGroupNorm(Base):
    """Gemma 3n's, over (batch, time, bands, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        count = (torch.arange(x.shape[1]) + 1.0).reshape(1, -1, 1, 1) * x.shape[2] * x.shape[3]
        mean = x.sum((2, 3), keepdim=True).cumsum(1) / count
        d = x - mean
        return self.affine(d / (d.square().sum((2, 3), keepdim=True).cumsum(1) / count + self.eps).sqrt())


class NormWithChildren(Base):
    """Its scale is a child's."""

    class Scale(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(scales(width))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    def __init__(self, width: int = 12) -> None:
        super().__init__(width)
        self.child = self.Scale(width)
        self.activation = nn.Identity()
        del self.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.child(self.spread(x, -1, centred=False)))


class TupleNorm(Base):
    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.affine(self.spread(x, -1, centred=False)), None


class PairNorm(nn.Module):
    """Queries and keys at once."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.zeros(2))

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return functional.rms_norm(q, q.shape[-1:]), functional.rms_norm(k, k.shape[-1:])


class HeadsNorm(Base):
    """xLSTM's: reads (batch, time, heads, size), gives (batch, time, heads x size)."""

    def __init__(self) -> None:
        super().__init__(48, shift=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.spread(x, -1, centred=True).flatten(2) * self.weight


class WholeHeadsNorm(Base):
    """Chameleon's: reads (batch, time, heads, size) with a row of weights per head."""

    def __init__(self) -> None:
        super().__init__(48)

    def forward(self, x: Tensor) -> Tensor:
        y = self.spread(x, -1, centred=True)
        return y * self.weight.reshape(4, 12) + self.bias.reshape(4, 12)


class NoNorm(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x)


class IdentityNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.0


class ResidualGate(Base):
    """Has an eps, and is none."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.sigmoid(self.weight) * x + self.weight.exp() * y


TIME = (3, 7, 12)
IMAGE = (3, 12, 5, 4)
HEADS = (2, 6, 4, 12)

# class, input shape, then kind, axis, sample, offset of the identification
CASES: list[tuple[type[nn.Module], tuple[int, ...], tuple[str, int, str, float | None]]] = [
    (PlainLayerNorm, TIME, ("layer_norm", -1, "position", 0.0)),
    (PlainLayerNorm, (9, 12), ("layer_norm", -1, "position", 0.0)),
    (PlainRMSNorm, TIME, ("rms_norm", -1, "position", 0.0)),
    (PlainRMSNorm, HEADS, ("rms_norm", -1, "position", 0.0)),
    (UncentredLayerNorm, TIME, ("rms_norm", -1, "position", 0.0)),
    (CentredRMSNorm, TIME, ("layer_norm", -1, "position", 0.0)),
    (UnitOffsetRMSNorm, TIME, ("rms_norm", -1, "position", 1.0)),
    (UnitOffsetLayerNorm, TIME, ("layer_norm", -1, "position", 1.0)),
    (WeightlessRMSNorm, TIME, ("rms_norm", -1, "position", 0.0)),
    (NamelessStandardizer, TIME, ("layer_norm", -1, "position", 0.0)),
    (L2Norm, TIME, ("rms_norm", -1, "position", 0.0)),
    (UnitLengthNorm, TIME, ("rms_norm", -1, "position", 0.0)),
    (StdNorm, TIME, ("norm", -1, "position", 0.0)),
    (OddScaleNorm, TIME, ("layer_norm", -1, "position", None)),
    (InputScaledRMSNorm, TIME, ("rms_norm", -1, "position", 0.0)),
    (GateAfterNorm, TIME, ("rms_norm", -1, "position", 0.0)),
    (GateBeforeNorm, TIME, ("rms_norm", -1, "position", 0.0)),
    (SigmoidGateNorm, TIME, ("rms_norm", -1, "position", 0.0)),
    (OddlyGatedNorm, TIME, ("rms_norm", -1, "position", 0.0)),
    (AddNorm, TIME, ("layer_norm", -1, "position", 0.0)),
    (GroupedRMSNorm, TIME, ("rms_norm", -1, "position", 0.0)),
    (SecretlyGroupedRMSNorm, TIME, ("rms_norm", -1, "position", 0.0)),
    (ChannelsLayerNorm, IMAGE, ("layer_norm", 1, "position", 0.0)),
    (MiddleLayerNorm, (3, 12, 7), ("layer_norm", 1, "position", 0.0)),
    (MiddleLayerNorm, (3, 12, 12), ("layer_norm", 1, "position", 0.0)),
    (ChannelRMSNorm, IMAGE, ("rms_norm", 1, "position", 0.0)),
    (PixelLayerNorm2d, IMAGE, ("layer_norm", 1, "position", 0.0)),
    (FrozenBatchNorm2d, IMAGE, ("batch_norm", 1, "example", 0.0)),
    (FrozenStatsNorm, TIME, ("batch_norm", -1, "example", 0.0)),
    (FixedMeanVarianceNorm, TIME, ("norm", -1, "position", 0.0)),
    (LastAxisBatchNorm, TIME, ("batch_norm", -1, "example", 0.0)),
    (OwnBatchNorm, IMAGE, ("batch_norm", 1, "example", 0.0)),
    (StyleNorm, IMAGE, ("instance_norm", 1, "example", 0.0)),
    (GlobalLayerNorm, (3, 12, 7), ("group_norm", 1, "example", 0.0)),
    (ThreeGroupsNorm, IMAGE, ("group_norm", 1, "example", 0.0)),
    (CumulativeGroupNorm, (2, 6, 4, 12), ("group_norm", -1, "example", 0.0)),
    (NormWithChildren, TIME, ("rms_norm", -1, "position", None)),
    (TupleNorm, TIME, ("rms_norm", -1, "position", 0.0)),
    (HeadsNorm, HEADS, ("layer_norm", -1, "position", 0.0)),
    (HeadsNorm, (40, 9, 4, 12), ("layer_norm", -1, "position", 0.0)),
    (WholeHeadsNorm, HEADS, ("layer_norm", -1, "position", 0.0)),
    (PairNorm, HEADS, ("rms_norm", -1, "position", 0.0)),
]
