"""Which of torch's functions use the weight of a Linear or norm, and which of their arguments it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Argument:
    """One argument of a function: its place, and the names it goes by."""

    place: int
    names: tuple[str, ...]

    def of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        """The tensor given for it, or None."""
        value = args[self.place] if len(args) > self.place else None
        for name in self.names:
            value = kwargs.get(name) if value is None else value
        return value if isinstance(value, Tensor) else None


@dataclass(frozen=True)
class WeightUse:
    """How a function uses a weight.

    Attributes:
        reads: the tensor that the layer reads.
        weights: the arguments by which the layer may be known, the surest first.
        bias: the argument that a bias is; None where the function adds none.
        transposed: whether a Linear's weight is taken as (in, out), the other way round than it is stored.
        axes: the axes of what it reads and of what it gives in the order (..., features), where they have
            another; of one axis neither is moved.
    """

    reads: Argument
    weights: tuple[Argument, ...]
    bias: Argument | None = None
    transposed: bool = False
    axes: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    @property
    def moves(self) -> bool:
        """Whether the features lie on another axis than the last."""
        return self.axes is not None

    def given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        """What the layer reads, features last."""
        tensor = self.reads.of(args, kwargs)
        return tensor if self.axes is None or tensor is None else _moved(tensor, self.axes[0])

    def made(self, output: Any) -> Any:
        """What the layer gives, features last."""
        return output if self.axes is None or output is None else _moved(output, self.axes[1])

    def has_bias(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call with these arguments adds a bias."""
        return self.bias is not None and self.bias.of(args, kwargs) is not None


def _moved(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    """A tensor with its axes in another order; `(-1, -2)` swaps the last two of any number."""
    if tensor.dim() < 2:
        return tensor
    return tensor.detach().mT if axes == _SWAPPED else tensor.detach().permute(axes)


_SWAPPED = (-1, -2)


# Positions of arguments are those of torch's signatures, which are public and do not move.
def _norm(weight: int, *statistics: str) -> WeightUse:
    """A norm: its weight, or where it has none its bias or its running statistics."""
    known = (Argument(weight, ("weight",)), Argument(weight + 1, ("bias",)))
    running = (Argument(1 + index, (name,)) for index, name in enumerate(statistics))
    return WeightUse(Argument(0, ("input",)), (*known, *running), Argument(weight + 1, ("bias",)))


_LINEAR = WeightUse(Argument(0, ("input",)), (Argument(1, ("weight",)),), Argument(2, ("bias",)))
_PRODUCT = WeightUse(
    Argument(0, ("input", "self")), (Argument(1, ("other", "mat2", "tensor2")),), transposed=True
)
# `weight @ x`: what is multiplied has its features on the last axis but one (Mamba's `dt_proj`).
_FROM_THE_LEFT = WeightUse(
    Argument(1, ("other", "mat2", "tensor2", "vec")),
    (Argument(0, ("input", "self")),),
    axes=(_SWAPPED, _SWAPPED),
)
_SUM = WeightUse(
    Argument(1, ("mat1",)), (Argument(2, ("mat2",)),), Argument(0, ("input", "self")), transposed=True
)

_RMS_NORM = WeightUse(Argument(0, ("input",)), (Argument(2, ("weight",)),))
_OF_NORM = (functional.layer_norm, torch.layer_norm, functional.group_norm, torch.group_norm)
_OF_CHANNELS = (functional.instance_norm, functional.batch_norm)
# `torch.batch_norm` takes weight and bias ahead of the statistics, `functional.batch_norm` behind them.
_OF_TORCH = WeightUse(
    Argument(0, ("input",)),
    (Argument(1, ("weight",)), Argument(2, ("bias",)), Argument(3, ("running_mean",))),
    Argument(2, ("bias",)),
)


def _of_einsum(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[WeightUse]:
    """The ways in which one operand of `torch.einsum` may be a Linear's weight (out, in) for the other."""
    operands = [value for value in args[1:] if isinstance(value, Tensor)]
    equation = args[0].replace(" ", "") if args and isinstance(args[0], str) else ""
    left, arrow, result = equation.partition("->")
    subscripts = left.split(",")
    if not arrow or not len(operands) == len(subscripts) == len(args) - 1 == 2:
        return
    for weight, read in ((0, 1), (1, 0)):
        if len(subscripts[weight]) != 2 or "." in subscripts[weight]:
            continue
        fed, made = subscripts[weight][1], subscripts[weight][0]
        given = _spelled(subscripts[read], operands[read].dim())
        output = _spelled(result, operands[read].dim())
        rest = [letter for letter in given if letter != fed]
        if (
            fed in given
            and fed not in output
            and made in output
            and sorted(rest) == sorted(set(output) - {made})
        ):
            axes = tuple([which.index(letter) for letter in rest] for which in (given, output))
            yield WeightUse(
                Argument(1 + read, ()),
                (Argument(1 + weight, ()),),
                axes=((*axes[0], given.index(fed)), (*axes[1], output.index(made))),
            )


def _spelled(subscripts: str, axes: int) -> str:
    """Subscripts of a tensor with a letter for each axis that an ellipsis stands for."""
    letters = subscripts.replace("...", "")
    return subscripts.replace("...", "0123456789"[: max(axes - len(letters), 0)])


UsesOf = Callable[[tuple[Any, ...], Mapping[str, Any]], Iterable[WeightUse]]

USES: dict[Callable[..., Any], tuple[WeightUse, ...] | UsesOf] = {
    **dict.fromkeys((functional.linear, torch.inner, Tensor.inner), (_LINEAR,)),
    **dict.fromkeys(_OF_NORM, (_norm(2),)),
    **dict.fromkeys(_OF_CHANNELS, (_norm(3, "running_mean", "running_var"),)),
    **dict.fromkeys((functional.rms_norm, torch.rms_norm), (_RMS_NORM,)),
    **dict.fromkeys((torch.instance_norm, torch.batch_norm), (_OF_TORCH,)),
    **dict.fromkeys(
        (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.bmm, Tensor.bmm),
        (_PRODUCT, _FROM_THE_LEFT),
    ),
    **dict.fromkeys((torch.mv, Tensor.mv), (_FROM_THE_LEFT,)),
    **dict.fromkeys((torch.addmm, Tensor.addmm), (_SUM,)),
    torch.einsum: _of_einsum,
}
"""Every function that a layer may be called through."""

_COPIES = {Tensor.to, Tensor.type, Tensor.float, Tensor.half, Tensor.bfloat16, Tensor.double, Tensor.detach}
COPIES = frozenset({*_COPIES, Tensor.data.__get__})  # type: ignore[attr-defined]
"""Methods whose result stands for the weight they were given."""

LOOKUPS = frozenset({functional.embedding, functional.embedding_bag, torch.embedding})
"""Functions that read rows of a weight: a tied table is no use of the Linear that shares it."""


def reads_values(func: Callable[..., Any]) -> bool:
    """Whether a function reads the numbers of a tensor that it is given, not its sizes, dtype or device."""
    name = getattr(func, "__name__", "")
    return (
        func not in LOOKUPS
        and name not in _ATTRIBUTES
        and not name.startswith("new_")
        and "_like" not in name
    )


_ATTRIBUTES = {"__get__", "__set__", "requires_grad_", "detach", "size", "dim", "numel", "stride"}

# Faults of torch: each of these functions hands all but this argument to a mode.
_LOST = (
    (functional, "l1_loss", "weight"),
    (torch, "chain_matmul", "out"),
    (Tensor, "dim_order", "ambiguity_check"),
)
LOST = {getattr(holder, name): lost for holder, name, lost in _LOST if hasattr(holder, name)}
"""Arguments that torch itself drops when it hands a call to a mode, by the function they are of."""


def lost_arguments(func: Any) -> dict[str, Any]:
    """Of a function that is under way what it was called with and torch did not hand on.

    They are read from the local variables of its Python frame, which is still on the stack: the first thing
    that it does is to hand the call to the mode.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not func.__code__:
        frame = frame.f_back
    given = {} if frame is None else frame.f_locals
    return {name: given[name] for name in (LOST[func],) if name in given}


COMPOSITE = frozenset({functional.multi_head_attention_forward})
"""Functions written in Python that call `linear` themselves, where no mode sees it."""


def with_linear(func: Any, linear: Callable[..., Any]) -> Callable[..., Any]:
    """The same code as a function of `torch.nn.functional`, but calling this ``linear``.

    While a mode handles a function, torch has taken the mode off the stack, so it sees none that this one
    calls. So a copy of the function is called, which looks up `linear` elsewhere; torch's own functions are
    left as they are. It is made anew at each call: others may put another `linear` into the module.
    """
    names = dict(func.__globals__)
    names["linear"] = linear
    # Private helpers of attention's projections, which call `linear` for it.
    for helper in ("_in_projection_packed", "_in_projection"):
        if helper in names:
            names[helper] = _copied(names[helper], names)
    return _copied(func, names)


def _copied(func: Any, names: dict[str, Any]) -> FunctionType:
    """A function of the same code that looks its names up in these."""
    copy = FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy
