"""Shapes of layers, and Linear layers that do the work of several, as for query, key and value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import NamedTuple


class LayerShape(NamedTuple):
    """What kind of layer it is and how wide: the numbers of features of its input and output."""

    norm: bool
    n_in: int
    n_out: int

    def __str__(self) -> str:
        return f"{'norm' if self.norm else 'Linear'} of {self.n_in:,} → {self.n_out:,} features"


def remove_fused(
    wide: MutableMapping[str, LayerShape], narrow: MutableMapping[str, LayerShape], reads: Mapping[str, bytes]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Find and take away each Linear of one model that is as wide as several of the other together.

    Args:
        wide: shapes of the layers that may hold several, in order of execution; found ones are removed.
        narrow: shapes of the other model's layers; those that are held are removed.
        reads: a key of the tensor that each of the latter reads.

    Yields:
        A wide layer, and the layers it stands for: neighbours that read one tensor.
    """
    spare = Counter(wide.values())
    spare.subtract(narrow.values())
    groups = _neighbours(narrow, reads)
    # Only shapes of which there are more here than there: the others have a counterpart of their own.
    for shape in [shape for shape in dict.fromkeys(wide.values()) if not shape.norm and spare[shape] > 0]:
        fitting = [g for g in groups if _holds(shape, [narrow[layer] for layer in g])]
        holders = [layer for layer, mine in wide.items() if mine == shape]
        # Which holds which is told by order alone, so there must be as many.
        if len(fitting) != len(holders):
            continue
        for layer, group in zip(holders, fitting, strict=True):
            del wide[layer]
            for part in group:
                del narrow[part]
            yield layer, group
        groups = [g for g in groups if g not in fitting]


def _holds(shape: LayerShape, parts: Sequence[LayerShape]) -> bool:
    return all(part.n_in == shape.n_in for part in parts) and sum(p.n_out for p in parts) == shape.n_out


def _neighbours(shapes: Mapping[str, LayerShape], reads: Mapping[str, bytes]) -> list[tuple[str, ...]]:
    """Linear layers that follow one another and read the same tensor, two or more."""
    groups: list[list[str]] = []
    for layer, shape in shapes.items():
        if shape.norm:
            continue
        if groups and reads[groups[-1][0]] == reads[layer]:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    return [tuple(group) for group in groups if len(group) > 1]
