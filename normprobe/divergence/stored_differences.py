"""Which parameters and buffers of two models differ, those of layers that are not measured among them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from normprobe.divergence.matching import match_names
from normprobe.divergence.rounding import unit
from normprobe.formatting import format_number

SETTINGS = "in its settings"
"""How the words begin where settings differ, not a tensor."""

# A comma within brackets is part of a value.
_SEPARATOR = re.compile(r",\s*(?![^(\[]*[)\]])")
_SURE = 2.0
"""By how much a difference must exceed the rounding of the coarser of two dtypes, as it is estimated."""


class StoredTensor(Protocol):
    """A parameter or buffer in a few numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""

    @property
    def dtype(self) -> str:
        """Of its numbers."""

    @property
    def power(self) -> float:
        """Sum of the squares of its finite numbers."""

    @property
    def sketch(self) -> NDArray[np.float64]:
        """Linear in its finite numbers; the sum of squares estimates theirs."""

    @property
    def nonfinite(self) -> int:
        """How many are NaN or infinite."""

    @property
    def same_as(self) -> int:
        """The same for all names of one tensor."""


StoredTensors = Mapping[tuple[str, str], StoredTensor]
"""What a model stores, by name of the module and of the tensor in it."""


class StoredDifference(NamedTuple):
    """A tensor that the two models store differently.

    Attributes:
        module: name of its module in the first model.
        tensor: its name there; "" where it is the module's settings that differ.
        share: root mean square of the difference over that of the first model's, estimated to a tenth; inf
            where the first is 0, NaN where the two do not compare.
        said: the difference in words, which follow "differs".
    """

    module: str
    tensor: str
    share: float
    said: str

    @property
    def name(self) -> str:
        """The tensor's name in the model; the module's where settings differ."""
        return ".".join(filter(None, [self.module, self.tensor]))


def stored_differences(a: StoredTensors, b: StoredTensors) -> list[StoredDifference]:
    """The tensors of one name, in modules that are matched by name, that differ beyond rounding.

    Args:
        a: what the first model stores.
        b: what the second does.

    Returns:
        In the first model's order of definition, a tied tensor once.
    """
    modules = match_names(list(dict.fromkeys(m for m, _ in a)), list(dict.fromkeys(m for m, _ in b)))
    seen: set[tuple[int, int]] = set()
    found = []
    for (module, tensor), mine in a.items():
        other = b.get((modules[module], tensor)) if module in modules else None
        if other is None or (mine.same_as, other.same_as) in seen:
            continue
        seen.add((mine.same_as, other.same_as))
        difference = _difference(mine, other)
        if difference is not None:
            found.append(StoredDifference(module, tensor, *difference))
    return [*found, *_settings_that_differ(modules, a, b)]


def _settings_that_differ(
    modules: Mapping[str, str], a: StoredTensors, b: StoredTensors
) -> Iterator[StoredDifference]:
    """What modules of one class print of themselves differently: a stride, a kind of padding."""
    # A mapping of a caller's own may hold tensors alone.
    of_a, of_b = (getattr(side, "settings", {}) for side in (a, b))
    for module, (kind, mine) in of_a.items():
        # One without tensors, such as a pooling, is matched by its own name alone.
        other_kind, others = of_b.get(modules.get(module, module), ("", ""))
        if kind != other_kind or mine == others:
            continue
        yield StoredDifference(module, "", np.nan, f"{SETTINGS}: {_settings_in_words(mine, others)}")


def _settings_in_words(a: str, b: str) -> str:
    """The settings of either that the other has not."""
    both = [_SEPARATOR.split(text) for text in (a, b)]
    only = [[part for part in both[side] if part not in both[1 - side]] for side in (0, 1)]
    of_a, of_b = (", ".join(filter(None, parts)) for parts in only)
    if of_a and of_b:
        return f"{of_a} against {of_b}"
    # Torch prints most settings only where they are not the default.
    return f"{of_a or of_b} in the {'first' if of_a else 'second'} only"


def not_measured(found: Collection[StoredDifference], measured: Collection[str]) -> list[StoredDifference]:
    """Those of them that belong to no layer that was measured."""
    return [difference for difference in found if difference.module not in measured]


def _difference(a: StoredTensor, b: StoredTensor) -> tuple[float, str] | None:
    """By how much two tensors differ, and that in words; None if they do not, beyond rounding."""
    if a.shape != b.shape:
        # Of one matrix one model may store the transpose, of which the sketch is another.
        if a.shape == b.shape[::-1]:
            return None
        return np.nan, f"in its shape: {_sizes(a.shape)} against {_sizes(b.shape)}"
    if a.nonfinite != b.nonfinite:
        return np.nan, f"in its NaN and infinite values: {a.nonfinite:,} against {b.nonfinite:,}"
    apart, size = float(np.linalg.norm(b.sketch - a.sketch)), float(np.sqrt(a.power))
    rounding = unit(f"{a.dtype}; {b.dtype}")
    if apart <= _SURE * rounding * size or apart == 0:
        return None
    if size == 0:
        return np.inf, "where the first has 0"
    return apart / size, f"by about {format_number(float(f'{100 * apart / size:.1g}'))} %"


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"
