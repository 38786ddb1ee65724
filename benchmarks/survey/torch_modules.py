"""Every module of torch.nn that is a Linear or a norm, or holds one, with inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class _Called(nn.Module):
    """A module inside a model, so that its name is not empty."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*modules)

    def forward(self, *inputs: Any) -> Any:
        first, *rest = self.inner
        values = first(*inputs)
        for module in rest:
            values = module(values)
        return values


def _parametrized(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return wrap(nn.Linear(6, 5))


def torch_models() -> Iterator[tuple[str, nn.Module, Callable[[], Any]]]:
    """Name, model and a call of each."""
    for name, module, inputs in _modules():
        torch.manual_seed(0)
        model = _Called(module).eval()
        with torch.no_grad():
            model(*(_copied(value) for value in inputs))  # a lazy module gets its sizes
        _stir(model)
        yield name, model, lambda model=model, inputs=inputs: model(*(_copied(value) for value in inputs))
        if not name.startswith("Transformer"):
            train = _Called(module).train()
            yield f"{name}.train", train, lambda model=train, inputs=inputs: _stateless(model, inputs)


def _stateless(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """A call in training mode that leaves the running statistics as they were."""
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    output = model(*(_copied(value) for value in inputs))
    for name, buffer in model.named_buffers():
        buffer.copy_(state[name])
    return output


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _stir(model: nn.Module) -> None:
    """Weights and running statistics none of which is 0 or 1."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.dim() == 1:
            nn.init.uniform_(tensor, 0.5, 1.5)


def _modules() -> Iterator[tuple[str, nn.Module, tuple[Any, ...]]]:
    yield "Linear", nn.Linear(6, 5), (_data(4, 7, 6),)
    yield "LazyLinear", nn.LazyLinear(5), (_data(4, 7, 6),)
    yield (
        "NonDynamicallyQuantizableLinear",
        nn.modules.linear.NonDynamicallyQuantizableLinear(6, 5),
        (_data(4, 6),),
    )
    yield "Linear.weight_norm", _parametrized(nn.utils.parametrizations.weight_norm), (_data(4, 6),)
    yield "Linear.spectral_norm", _parametrized(nn.utils.parametrizations.spectral_norm), (_data(4, 6),)
    yield "Linear.orthogonal", _parametrized(nn.utils.parametrizations.orthogonal), (_data(4, 6),)
    yield "LayerNorm", nn.LayerNorm(6), (_data(4, 7, 6),)
    yield "LayerNorm.2", nn.LayerNorm((7, 6)), (_data(4, 7, 6),)
    yield "LayerNorm.plain", nn.LayerNorm(6, elementwise_affine=False), (_data(4, 6),)
    yield "LayerNorm.unbiased", nn.LayerNorm(6, bias=False), (_data(4, 6),)
    yield "RMSNorm", nn.RMSNorm(6), (_data(4, 7, 6),)
    yield "RMSNorm.2", nn.RMSNorm((7, 6)), (_data(4, 7, 6),)
    yield from _channels()
    yield "LocalResponseNorm", nn.LocalResponseNorm(3), (_data(4, 6, 5, 5),)
    yield "CrossMapLRN2d", nn.CrossMapLRN2d(3), (_data(4, 6, 5, 5),)
    yield from _containers()


def _channels() -> Iterator[tuple[str, nn.Module, tuple[Any, ...]]]:
    for axes in (1, 2, 3):
        image = _data(4, 6, *[5] * axes)
        for kind in ("BatchNorm", "InstanceNorm", "LazyBatchNorm", "LazyInstanceNorm"):
            sizes = () if kind.startswith("Lazy") else (6,)
            yield f"{kind}{axes}d", getattr(nn, f"{kind}{axes}d")(*sizes, affine=True), (image,)
        yield f"InstanceNorm{axes}d.unbatched", getattr(nn, f"InstanceNorm{axes}d")(6), (image[0],)
        yield f"BatchNorm{axes}d.plain", getattr(nn, f"BatchNorm{axes}d")(6, affine=False), (image,)
        tracking = getattr(nn, f"InstanceNorm{axes}d")(6, track_running_stats=True)
        yield f"InstanceNorm{axes}d.tracking", tracking, (image,)
        yield f"GroupNorm.{axes}", nn.GroupNorm(3, 6), (image,)
    yield "BatchNorm1d.rows", nn.BatchNorm1d(6), (_data(8, 6),)
    yield "BatchNorm2d.untracked", nn.BatchNorm2d(6, track_running_stats=False), (_data(4, 6, 5, 5),)
    yield "SyncBatchNorm", nn.SyncBatchNorm(6), (_data(4, 6, 5),)
    yield "GroupNorm.rows", nn.GroupNorm(3, 6), (_data(8, 6),)
    last = _data(4, 6, 5, 5).to(memory_format=torch.channels_last)
    yield "BatchNorm2d.channels_last", nn.BatchNorm2d(6), (last,)


def _containers() -> Iterator[tuple[str, nn.Module, tuple[Any, ...]]]:
    x = _data(4, 7, 8)
    for first in (True, False):
        name = "" if first else ".time_first"
        yield f"MultiheadAttention{name}", nn.MultiheadAttention(8, 2, batch_first=first), (x, x, x)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=first)
        yield f"TransformerEncoderLayer{name}", layer, (x,)
        decoder = nn.TransformerDecoderLayer(8, 2, 16, batch_first=first)
        yield f"TransformerDecoderLayer{name}", decoder, (x, x)
        yield f"TransformerEncoder{name}", nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (x,)
        yield f"TransformerDecoder{name}", nn.TransformerDecoder(decoder, 2), (x, x)
        yield f"Transformer{name}", nn.Transformer(8, 2, 1, 1, 16, batch_first=first), (x, x)
    yield (
        "MultiheadAttention.sizes",
        nn.MultiheadAttention(8, 2, kdim=6, vdim=5),
        (x, _data(4, 7, 6), _data(4, 7, 5)),
    )
    softmax = nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10], div_value=2.0)
    yield "AdaptiveLogSoftmaxWithLoss", softmax, (_data(9, 8), torch.arange(9) * 2)


def _data(*sizes: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(sizes, generator=generator) * 1.5 + 0.5
