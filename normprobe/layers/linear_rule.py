"""What counts as a Linear: a plain one by its class, any other by its own call.

A plain Linear is certain on entry. Of others the module alone says too little: adapted ones (LoRA and its
like, Hu et al. 2021, arXiv:2106.09685) hold the Linear that they adapt and parts of low rank, some store one
tensor for several matrices, some quantize and normalize first. Each is one layer, which reads (..., features
in) and gives (..., features out): that its first call must show (`why_no_linear`). The layers inside it are
layers of their own.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence, Set

from torch import Tensor, nn

from normprobe.layers.layer import Layer
from normprobe.layers.module_attributes import (
    IN_FEATURES,
    OUT_FEATURES,
    PARAMETER_HOLDERS,
    attribute,
    is_lazy,
    own_tensors,
    parts_of,
    stored,
)
from normprobe.layers.view import WRAPS, View
from normprobe.vocabulary import ADAPTER_BASES

Sizes = tuple[int | None, int | None]
"""How many features go in and out; None where the module does not say."""

_NAMED, _BASE = "its class name", "the Linear that it adapts"

# What begins so is a Linear that does more (`LinearEnsemble`), or another module (`LinearAttention`).
_WORD = re.compile(r"^_?Linear(?![a-z])|(?<!Non)(?<!Bi)Linear(?=[A-Z])")
_OTHER = re.compile(
    r"norm|router|gat(e|ing)|attention|attn|activation|relu|conv|embed|block|mlp|mixer|cache|rotary|rope|"
    r"schedul|warmup|interpol|upsampl|former|encoder|decoder|head$|regress|classif|loss",
    re.IGNORECASE,
)
_EXPERTS = re.compile(r"expert|moe|mixture", re.IGNORECASE)
_IS_BASE = re.compile(
    r"(base|orig|wrapped|frozen|pretrained|inner|linear$|lin$|layer$|module$)", re.IGNORECASE
)
_ADAPTS = re.compile(r"lora|dora|adapt|ia3|low_?rank|bit_?fit|delta|tune|bias|scale", re.IGNORECASE)
# What computes nothing of its own in an adapted Linear.
_PASSES = (nn.Identity, nn.modules.dropout._DropoutNd, nn.ModuleDict, nn.ModuleList, *PARAMETER_HOLDERS)


def linear_by_rule(module: nn.Module, name: str) -> View | None:
    """The view of a module without layers inside that is a Linear, or may be by its call; else None.

    A weight of a plain one has two axes, or is a method, as in torch's quantized Linears, or is packed under
    another name (GPTQ, AWQ, HQQ): then it says how many features go in and out.
    """
    weight = stored(module, "weight")
    if isinstance(weight, Tensor):
        if (name.endswith("Linear") or name == "Conv1D") and (is_lazy(weight) or weight.dim() == 2):
            return View("linear", certain=True)
    elif is_called_linear(name) and says_both_sizes(module):
        return View("linear", certain=True)
    # Without numbers of its own it can only hand on or reorder what it is given.
    own = any(tensor.is_floating_point() and tensor.numel() > 1 for tensor in own_tensors(module).values())
    if not own or _EXPERTS.search(name):
        return None
    named = name == "Dense" or (is_called_linear(name) and not re.search("(non|bi)linear", name.lower()))
    begins = _WORD.match(name) is not None and isinstance(weight, Tensor)
    sized = _WORD.search(name) is not None and says_both_sizes(module)
    found = named or ((begins or sized) and not _OTHER.search(name))
    return View("linear", unconfirmed=_NAMED) if found else None


def linear_round(module: nn.Module, inside: Sequence[Layer]) -> View | None:
    """The view of a module that contains layers and may be one Linear by its call; None for containers."""
    name = type(module).__name__
    linears = {id(layer.module) for layer in inside if layer.view.kind == "linear" and not layer.refused}
    # A norm inside makes it a block, whatever it is called, unless it keeps a Linear as its base.
    only_linears = len(linears) == len(inside)
    base = base_of_adapter(module)
    if base is not None and id(base) in linears:
        adapted = says_both_sizes(module) or (only_linears and _adapts(module, base, linears))
        return View("linear", unconfirmed=_BASE) if adapted else None
    named = is_called_linear(name)
    if named and not _activates(module) and (_says_sizes(module) or _largest(module, linears, only_linears)):
        return View("linear", unconfirmed=_NAMED)
    # By name first: of the many containers that are neither, no sizes are asked for.
    known = [
        child
        for child_name, child in module.named_children()
        if id(child) in linears and (_IS_BASE.match(child_name) or _ADAPTS.search(name))
    ]
    largest = _largest(module, linears, only_linears) if known else None
    if (
        any(child is largest for child in known)
        and largest is not None
        and _adds_to(module, largest, linears)
    ):
        return View("linear", unconfirmed=WRAPS)
    return None


def _says_sizes(module: nn.Module) -> bool:
    """Whether a module says how many features go in and out, in words or by a matrix that is its weight."""
    weight = stored(module, "weight")
    matrix = isinstance(weight, Tensor) and not is_lazy(weight) and weight.dim() == 2
    return matrix or says_both_sizes(module)


def base_of_adapter(module: nn.Module) -> nn.Module | None:
    """The layer that an adapter stands for, where it keeps one under a usual name."""
    # Not `getattr`: an adapter may hand on what it is asked for to the layer inside.
    return next((part for name, part in parts_of(module).items() if name in ADAPTER_BASES), None)


def _largest(
    module: nn.Module, linears: Set[int] | None = None, only_linears: bool = True
) -> nn.Module | None:
    """The child with the most weights of those that say how many features go in and out.

    Args:
        module: the module.
        linears: the ids of the Linears inside it, of which it must be one; None where these are not known.
        only_linears: whether there is no other layer inside; else there is no such child.
    """
    children = [child for child in module.children() if linears is None or id(child) in linears]
    sized = [(sizes_of_linear(child), child) for child in children if only_linears]
    counts = [((sizes[0] or 0) * (sizes[1] or 0), child) for sizes, child in sized]
    count, child = max(counts, key=lambda counted: counted[0], default=(0, None))
    return child if count else None


def why_no_linear(module: nn.Module, view: View, before: Tensor, after: Tensor) -> str:
    """Why a call shows that a module is no Linear, though it looks like one; "" if it is.

    Args:
        module: the module.
        view: its view, unconfirmed.
        before: its first tensor argument.
        after: its first output tensor.
    """
    sizes = sizes_of_linear(module)
    read, gave = tuple(before.shape), tuple(after.shape)
    real = before.is_floating_point() and after.is_floating_point()
    # A weight may be stored either way round.
    ways = [sizes] if says_both_sizes(module) else [sizes, sizes[::-1]]
    same = len(read) == len(gave) > 0 and read[:-1] == gave[:-1]
    if real and same and any(_fits(way, (read[-1], gave[-1])) for way in ways):
        return ""
    said = "" if None in sizes else f", though it says {sizes[0]} features in and {sizes[1]} out"
    if not real:
        said = f" of {before.dtype} and {after.dtype}".replace("torch.", "")
    return (
        f"it looks like a Linear by {view.unconfirmed}, but its call shows none: "
        f"it reads a tensor of shape {read} and gives one of {gave}{said}"
    )


def _fits(said: Sizes, sizes: tuple[int, int]) -> bool:
    """Whether sizes are those that are said, as far as they are."""
    return all(known in (None, size) for known, size in zip(said, sizes, strict=True))


def sizes_of_linear(module: nn.Module) -> Sizes:
    """How many features a Linear says that go in and out, or the one inside that it adapts says."""
    if says_both_sizes(module):
        return _said(module, IN_FEATURES), _said(module, OUT_FEATURES)
    base, weight = base_of_adapter(module), stored(module, "weight")
    if base is not None:
        return sizes_of_linear(base)
    if isinstance(weight, Tensor) and not is_lazy(weight) and weight.dim() == 2:
        shape = weight.shape
        return (shape[0], shape[1]) if type(module).__name__ == "Conv1D" else (shape[1], shape[0])
    largest = _largest(module)
    return (None, None) if largest is None else sizes_of_linear(largest)


def is_called_linear(name: str) -> bool:
    """Whether a class name ends in the word."""
    # Packed ones carry their kernel or bit width behind the word: `Linear_Marlin`, `Linear4bit`.
    return re.search(r"Linear(_[A-Za-z]+|\d\w*)?$", name) is not None


def says_both_sizes(module: nn.Module) -> bool:
    """Whether a module says how many features go in and out."""
    return _said(module, IN_FEATURES) is not None and _said(module, OUT_FEATURES) is not None


def is_matrix_of(module: nn.Module, weight: Tensor) -> bool:
    """Whether a tensor is a matrix of as many features in and out as its module says, either way round."""
    said = {_said(module, IN_FEATURES), _said(module, OUT_FEATURES)}
    return says_both_sizes(module) and weight.dim() == 2 and set(weight.shape) == said


def _said(module: nn.Module, names: Sequence[str]) -> int | None:
    values = (attribute(module, name) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def _adds_to(module: nn.Module, base: nn.Module, linears: Set[int]) -> bool:
    """Whether all that a module holds beside a Linear are scales, shifts or parts of lower rank for it.

    Args:
        module: the module.
        base: the Linear, a child of the module.
        linears: the ids of the Linears inside the module.
    """
    others, sizes = _beside(module, base), sizes_of_linear(base)
    if None in sizes or not all(id(inner) in linears or isinstance(inner, _PASSES) for inner in others):
        return False
    holders = [module, *(inner for inner in others if id(inner) not in linears)]
    tensors = [tensor for holder in holders for tensor in own_tensors(holder).values() if tensor.numel() > 1]
    vectors = [tensor.numel() for tensor in tensors if tensor.dim() == 1]
    # Parameters may be stored either way round; of the size of the weight they are added to it.
    matrices: list[Sizes] = [(tensor.shape[0], tensor.shape[1]) for tensor in tensors if tensor.dim() == 2]
    factors = [shape for shape in matrices if shape not in (sizes, sizes[::-1])]
    parts = [sizes_of_linear(inner) for inner in others if id(inner) in linears]
    # Of full rank it would be a second layer, not a correction of the first.
    limit = min(size or 0 for size in sizes)
    return (
        len(vectors) + len(matrices) == len(tensors)
        and all(count in sizes for count in vectors)
        and _are_factors(parts, sizes, limit)
        and _are_factors(factors, sizes, limit)
        and bool(parts or tensors)
    )


def _adapts(module: nn.Module, base: nn.Module, linears: Set[int]) -> bool:
    """Whether a module that keeps a Linear as its base has no other Linears than factors of a product."""
    parts = [sizes_of_linear(inner) for inner in _beside(module, base) if id(inner) in linears]
    # With nothing beside it an activation is applied to what the Linear gives.
    return _are_factors(parts, sizes_of_linear(base), None) and bool(parts or not _activates(module))


def _beside(module: nn.Module, base: nn.Module) -> list[nn.Module]:
    """The modules inside a module that are not those of one child."""
    own = {id(inner) for inner in base.modules()}
    return [inner for inner in module.modules() if inner is not module and id(inner) not in own]


def _are_factors(parts: Sequence[Sizes], sizes: Sizes, limit: int | None) -> bool:
    """Whether matrices pair into products of these sizes, of a rank below the limit."""
    left = list(parts)
    # Greedy will do: of factors that share a rank any two pair alike.
    while left:
        first = left.pop()
        ranks = ((part, _rank(first, part, sizes)) for part in left)
        partner = next((part for part, rank in ranks if rank and (limit is None or rank < limit)), None)
        if partner is None:
            return False
        left.remove(partner)
    return True


def _rank(first: Sizes, second: Sizes, sizes: Sizes) -> int | None:
    """The rank that two matrices share, either way round, if one reads features in and one gives them out."""
    for a, b in itertools.product((first, first[::-1]), (second, second[::-1])):
        for one, other in ((a, b), (b, a)):
            if one[0] == sizes[0] and other[1] == sizes[1] and one[1] == other[0]:
                return one[1]
    return None


def _activates(module: nn.Module) -> bool:
    """Whether a module holds an activation or a convolution, which no Linear has."""
    kinds = (nn.modules.conv._ConvNd, nn.Embedding, nn.RNNBase)
    home = nn.modules.activation.__name__
    return any(isinstance(inner, kinds) or type(inner).__module__ == home for inner in module.modules())
