"""Data before they fit a model (a source: texts, images, arrays, an import path) and after (inputs)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Batch = Any  # A tensor, a tuple or list of positional arguments, or a mapping of keyword arguments.
Labels = Callable[[tuple[Any, ...], dict[str, Any]], list[list[str]]]


@dataclass(frozen=True)
class Texts:
    """Texts, or conversations of messages, in the order of their file.

    Attributes:
        where: the name people know them by, such as ``"texts.txt"``.
        texts: one text each; empty where ``chats`` holds messages.
        chats: one list of messages each.
        lines: number of the line or row that each comes from, from 1.
        warnings: what was left out while reading, a sentence each.
        tokens: token ids of one text each, where the file holds these.
    """

    where: str
    texts: Sequence[str] = ()
    chats: Sequence[list[dict[str, Any]]] = ()
    lines: Sequence[int] = ()
    warnings: tuple[str, ...] = ()
    tokens: Sequence[tuple[int, ...]] = ()


@dataclass(frozen=True)
class Images:
    """Images in the order of their names or of their file.

    Attributes:
        where: the name people know them by.
        items: paths, or uint8 arrays ``(height, width, channels)``.
    """

    where: str
    items: Sequence[Any]


@dataclass(frozen=True)
class Arrays:
    """Arrays or tensors by name, the same leading size each; the names are the model's keyword arguments.

    Attributes:
        where: the name people know them by.
        arrays: by name, or by position where the file has no names.
        rows: how many of the leading axis are to be used.
    """

    where: str
    arrays: Mapping[str | int, Any]
    rows: int


@dataclass(frozen=True)
class ImportPath:
    """A callable of the user's that yields batches, not imported yet.

    Attributes:
        where: its import path.
        limit: use only the first so many batches; None uses all.
    """

    where: str
    limit: int | None = None


Source = Texts | Images | Arrays | ImportPath


@dataclass(frozen=True)
class Inputs:
    """Batches that fit a model, and what to say about them.

    Attributes:
        batches: makes a fresh iterator each time it is iterated over.
        total: number of batches, or None where that shows only at the end.
        description: such as ``"48 texts from texts.txt"``.
        unit: what a position is called: ``"token"`` or ``"position"``.
        example_unit: what a batch element is called: ``"text"``, ``"image"`` or ``"example"``.
        warnings: what the user should know, such as ``"3 texts truncated to 512 tokens"``.
        labels: ``(args, kwargs)`` of a forward to the text of each token, padding included, or None.
    """

    batches: Iterable[Batch]
    total: int | None
    description: str
    unit: str = "position"
    example_unit: str = "example"
    warnings: tuple[str, ...] = ()
    labels: Labels | None = None


@dataclass(frozen=True)
class Chunks:
    """Batches made one at a time, of each run of ``size`` indices below ``count``, anew in each iteration.

    Images are opened and tensors made when their batch comes: no more than one batch is in memory.

    >>> list(Chunks(5, 2, lambda indices: list(indices)))
    [[0, 1], [2, 3], [4]]
    """

    count: int
    size: int
    make: Callable[[range], Batch] = field(repr=False)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, self.count, self.size):
            yield self.make(range(start, min(start + self.size, self.count)))

    def __len__(self) -> int:
        return (self.count + self.size - 1) // self.size


def count_of(number: int, noun: str) -> str:
    """A count with its noun.

    >>> count_of(1, "text"), count_of(1200, "text")
    ('1 text', '1,200 texts')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
