"""Which layer of one model stands for which of the other: by name, else by role, order and width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from normprobe.divergence.fused_linears import LayerShape, remove_fused
from normprobe.divergence.roles import pair_roles
from normprobe.vocabulary import ADAPTER_BASES

_WRAPPERS = ("_orig_mod", "module")
_DEEPEST = 3  # parts of a name that a wrapper class may put before it


class Match(NamedTuple):
    """Two layers that stand for one another.

    Attributes:
        a: name in the first model.
        b: name in the second.
        by: `name`, `role` or `order`.
    """

    a: str
    b: str
    by: str


class Unmatched(NamedTuple):
    """A layer that is not compared, the model it is of (`a` or `b`), and why."""

    of: str
    layer: str
    reason: str


@dataclass(frozen=True)
class FiredLayers:
    """The layers of one model that fired, in order of execution.

    Attributes:
        shapes: kind and widths of each.
        reads: a key of the tensor that each reads, equal for layers that read the same one.
        silent: status of the layers that did not fire.
    """

    shapes: Mapping[str, LayerShape]
    reads: Mapping[str, bytes]
    silent: Mapping[str, str]


class SilentTwins(NamedTuple):
    """A layer that fired in one model (`a` or `b`) only, and those in its place in the other that did not.

    Attributes:
        of: the model of the layer that fired.
        layer: its name.
        twins: the layers of its shape in the same place of the other model.
        status: their status: never fired or bypassed.
    """

    of: str
    layer: str
    twins: tuple[str, ...]
    status: str


@dataclass(frozen=True)
class MatchedLayers:
    """The layers of two models, matched, in the first one's order of execution; and those left over."""

    pairs: tuple[Match, ...]
    unmatched: tuple[Unmatched, ...]
    silent_twins: tuple[SilentTwins, ...] = ()


def match_layers(a: FiredLayers, b: FiredLayers) -> MatchedLayers:
    """Match the layers of two models.

    Names come first, without the prefixes of wrappers (`module.`, `_orig_mod.`) and of a class around the
    whole (`bert.encoder` is `encoder`); the layer inside an adapter (`x.base_layer`) is `x` where the adapter
    itself is none of the layers. What is left is matched by shape: roles (layers whose names differ
    only in the block) by the words their names end in, else in order of execution, where the numbers agree.
    A Linear that does the work of several is declared, and so is everything else without a counterpart.
    """
    names = match_names(list(a.shapes), list(b.shapes))
    pairs = [Match(x, y, "name") for x, y in names.items() if a.shapes[x] == b.shapes[y]]
    left_a = {x: shape for x, shape in a.shapes.items() if x not in {pair.a for pair in pairs}}
    left_b = {y: shape for y, shape in b.shapes.items() if y not in {pair.b for pair in pairs}}
    unmatched = [*_silent("a", left_a, "b", b.silent), *_silent("b", left_b, "a", a.silent)]
    for of, wide, narrow, reads in (("b", left_b, left_a, a.reads), ("a", left_a, left_b, b.reads)):
        # Before the rest is matched by shape, which would have other numbers of layers otherwise.
        for whole, parts in remove_fused(wide, narrow, reads):
            unmatched += _fused(of, whole, parts)
    rest, alone = _by_shape(left_a, left_b)
    order = {layer: at for at, layer in enumerate(a.shapes)}
    pairs = sorted([*pairs, *rest], key=lambda pair: order[pair.a])
    return MatchedLayers(tuple(pairs), (*unmatched, *alone))


def match_names(a: Sequence[str], b: Sequence[str]) -> dict[str, str]:
    """Names of modules matched as those of layers are: without wrappers' prefixes, through adapters."""
    names = _by_name(a, b)
    return names | _without_adapter(a, b, names)


def _by_name(a: Sequence[str], b: Sequence[str]) -> dict[str, str]:
    """Equal names, once the prefixes of wrappers are off; of a model that is itself a layer, the only one."""
    if len(a) == len(b) == 1:
        return {a[0]: b[0]}
    plain_a, plain_b = _stripped_names(a), _stripped_names(b)
    cut_a, cut_b = _common_prefix(list(plain_a), set(plain_b)), _common_prefix(list(plain_b), set(plain_a))
    short_a = {name.removeprefix(cut_a): full for name, full in plain_a.items()}
    short_b = {name.removeprefix(cut_b): full for name, full in plain_b.items()}
    # Cut so, two names have become one: then none is cut.
    if len(short_a) < len(plain_a) or len(short_b) < len(plain_b):
        short_a, short_b = plain_a, plain_b
    return {short_a[name]: short_b[name] for name in short_a if name in short_b}


def _without_adapter(a: Collection[str], b: Collection[str], matched: Mapping[str, str]) -> dict[str, str]:
    """Layers inside an adapter that is no layer itself, matched with what the other has in its place."""
    outer_a, outer_b = (
        {name if _outside(name) in names else _outside(name): name for name in names} for names in (a, b)
    )
    found = _by_name(list(outer_a), list(outer_b))
    # What has a counterpart by its own name keeps it.
    taken = set(matched.values())
    every = ((outer_a[x], outer_b[y]) for x, y in found.items())
    return {x: y for x, y in every if x not in matched and y not in taken}


def _outside(name: str) -> str:
    """The name of the adapter that a layer is held by, its own where it is held by none."""
    parent, _, last = name.rpartition(".")
    return parent if last in ADAPTER_BASES else name


def _stripped_names(names: Sequence[str]) -> dict[str, str]:
    """Names without the parts of wrappers to whole names; whole ones where two would be the same."""
    count = Counter(_stripped(name) for name in names)
    return {_stripped(name) if count[_stripped(name)] == 1 else name: name for name in names}


def _stripped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _common_prefix(names: Sequence[str], others: set[str]) -> str:
    """The beginning without which most names occur among the others; "" where more of them do as they are."""
    votes: Counter[str] = Counter({"": sum(name in others for name in names)})
    for name in names:
        parts = name.split(".")
        for cut in range(1, min(_DEEPEST, len(parts) - 1) + 1):
            if ".".join(parts[cut:]) in others:
                votes[".".join(parts[:cut]) + "."] += 1
    # Of equally many votes the shortest: nothing is cut without need.
    return max(votes, key=lambda prefix: (votes[prefix], -len(prefix)))


def _silent(
    of: str, layers: dict[str, LayerShape], other: str, silent: Mapping[str, str]
) -> Iterator[Unmatched]:
    """Take away the layers that fired in one model only, though the other has one of the name."""
    for layer in [layer for layer in layers if layer in silent]:
        del layers[layer]
        yield Unmatched(of, layer, f"{silent[layer]} in {other}")


def _fused(of: str, whole: str, parts: Sequence[str]) -> list[Unmatched]:
    other = "a" if of == "b" else "b"
    held = Unmatched(of, whole, f"fused: does the work of {', '.join(parts)} of {other}")
    return [held, *(Unmatched(other, part, f"fused into {whole} of {of}") for part in parts)]


def _by_shape(
    a: Mapping[str, LayerShape], b: Mapping[str, LayerShape]
) -> tuple[list[Match], list[Unmatched]]:
    """Match what is left, shape by shape, where both have as many layers of it."""
    pairs: list[Match] = []
    alone: list[Unmatched] = []
    for shape in dict.fromkeys([*a.values(), *b.values()]):
        of_a = [layer for layer, mine in a.items() if mine == shape]
        of_b = [layer for layer, mine in b.items() if mine == shape]
        if len(of_a) == len(of_b):
            pairs += [Match(*found) for found in pair_roles(of_a, of_b)]
        else:
            reason = f"a has {len(of_a)} and b {len(of_b)} further layers of this shape ({shape})"
            alone += [Unmatched("a", layer, reason) for layer in of_a]
            alone += [Unmatched("b", layer, reason) for layer in of_b]
    return pairs, alone
