"""Layers that fired in one model only, where one of their shape never fired in the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from normprobe.divergence.fused_linears import LayerShape
from normprobe.divergence.matching import FiredLayers, Match, MatchedLayers, SilentTwins, Unmatched

_SILENT = ("never fired", "bypassed")


def with_silent_twins(
    matched: MatchedLayers, layers: tuple[FiredLayers, FiredLayers], ledgers: tuple[Any, Any]
) -> MatchedLayers:
    """Say of layers without a counterpart which ones of the other model stand where theirs would be.

    A port that looks for a layer under another name, and does not find it, leaves the layer that it has
    unused: both lack a counterpart then, and belong together.

    Args:
        matched: the layers as they were matched.
        layers: those that fired, of both.
        ledgers: the ledgers of both, by layer.
    """
    found: list[SilentTwins] = []
    for at, of in enumerate("ab"):
        shapes, ledger = layers[at].shapes, ledgers[1 - at]
        alone = [left.layer for left in matched.unmatched if left.of == of and left.layer in shapes]
        for layer, twins in _twins(alone, shapes, ledger, _parents(matched.pairs, at)):
            found.append(SilentTwins(of, layer, tuple(twins), str(ledger.loc[twins[0], "status"])))
    named = dict(pair for twins in found for pair in _named(twins))
    others = [left for left in matched.unmatched if (left.of, left.layer) not in named]
    return replace(matched, unmatched=(*named.values(), *others), silent_twins=tuple(found))


def _named(found: SilentTwins) -> Iterator[tuple[tuple[str, str], Unmatched]]:
    """What a layer and its twins are told of one another."""
    of, layer, twins, status = found
    other = "b" if of == "a" else "a"
    like = "of its shape and in its place"
    yield (
        (of, layer),
        Unmatched(of, layer, f"fired in {of} only; {', '.join(twins)} of {other}, {like}, {status}"),
    )
    for twin in twins:
        yield (other, twin), Unmatched(other, twin, f"{status}; {layer} of {of}, {like}, fired")


def _parents(pairs: Sequence[Match], at: int) -> Mapping[str, set[str]]:
    """What holds the counterparts of the layers that each module holds; in models of equal names itself."""
    found: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        found[_parent(pair[at])].add(_parent(pair[1 - at]))
    return found


def _twins(
    alone: Sequence[str], shapes: Mapping[str, LayerShape], ledger: Any, parents: Mapping[str, set[str]]
) -> Iterator[tuple[str, list[str]]]:
    """Each layer alone with those of the other model that may stand in its place, one or several."""
    # By place, kind and width together: one alone would pair layers that only look alike.
    groups: dict[tuple[str, bool, int], list[str]] = defaultdict(list)
    for layer in alone:
        groups[_parent(layer), shapes[layer].norm, shapes[layer].n_in].append(layer)
    silent = ledger[ledger["status"].isin(_SILENT)]
    for (parent, norm, width), mine in groups.items():
        # Where no neighbour is matched, the place of the same name.
        places = parents.get(parent, {parent})
        fits = (silent["kind"] != "linear") == norm
        fits &= (silent["n_features"] == width).fillna(False)
        theirs = [str(name) for name in silent.index[fits.to_numpy(bool)] if _parent(str(name)) in places]
        # As many of either: in order of definition each has its own.
        if theirs and len(theirs) == len(mine):
            yield from ((layer, [twin]) for layer, twin in zip(mine, theirs, strict=True))
        elif theirs:
            yield from ((layer, theirs) for layer in mine)


def _parent(layer: str) -> str:
    return layer.rpartition(".")[0]
