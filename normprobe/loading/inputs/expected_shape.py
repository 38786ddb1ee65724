"""The shape of the array that a model reads, as far as its first layer and its forward say it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

_Convolution = nn.modules.conv._ConvNd
_BatchNorm = nn.modules.batchnorm._BatchNorm
_AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


def array_to_give(module: nn.Module) -> str:
    """What to put into which file for a model, such as "an array of shape (examples, 8)", in a sentence."""
    names = _required(module)
    if len(names) > 1:
        return (
            f"put arrays named {', '.join(names)}, which its forward takes, into x.npz and give --data x.npz"
        )
    # In order of definition, mostly that of execution: it is a hint in a message, no more.
    for name, part in module.named_modules():
        shape = next((shape(part) for cls, shape in _SHAPES if isinstance(part, cls)), None)
        if shape is not None:
            which = f"its first layer, {name} ({type(part).__name__})," if name else "it"
            return (
                f"put an array of shape ({', '.join(map(str, shape))}) into x.npy, which {which} reads, and "
                "give --data x.npy"
            )
    return "give --data, such as x.npy"


def _required(module: nn.Module) -> list[str]:
    """The arguments of a forward that have no default."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in variadic]


def _convolved(part: Any) -> tuple[Any, ...]:
    return ("examples", part.in_channels, *_AXES[len(part.kernel_size)])


def _recurrent(part: Any) -> tuple[Any, ...]:
    axes = ("examples", "positions") if part.batch_first else ("positions", "examples")
    return (*axes, part.input_size)


def _channels(part: Any) -> tuple[Any, ...]:
    axes = {nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}
    return ("examples", part.num_features, *_AXES.get(axes.get(type(part), 0), ()))


_SHAPES: tuple[tuple[type[nn.Module], Callable[[Any], tuple[Any, ...]]], ...] = (
    (nn.Embedding, lambda part: ("examples", f"positions: whole numbers below {part.num_embeddings}")),
    (_Convolution, _convolved),
    (nn.Linear, lambda part: ("examples", part.in_features)),
    (nn.RNNBase, _recurrent),
    (nn.LayerNorm, lambda part: ("examples", *part.normalized_shape)),
    (_BatchNorm, _channels),
)
"""By class of a first layer what it reads; of several axes names for those that may be of any size."""
