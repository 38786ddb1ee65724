"""The option `labels` of a probe: the texts of samples, as a list or as a function of each forward."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from normprobe.errors import NormprobeError

LabelsOf = Callable[[tuple[Any, ...], dict[str, Any]], list[list[str]]]
LabelsOption = LabelsOf | Sequence[str] | Sequence[Sequence[str]] | None


@dataclass(frozen=True, eq=False)
class ListedLabels:
    """The texts of examples in the order of the data, or of the positions of each."""

    texts: Sequence[str | Sequence[str]]

    def of(self, first: int, size: int) -> list[Sequence[str]]:
        """The texts of the positions of some examples."""
        if first + size > len(self.texts):
            raise NormprobeError(
                f"labels has {len(self.texts)} entries, one an example; there is none for example "
                f"{len(self.texts)}"
            )
        some = self.texts[first : first + size]
        return [_OneText(text) if isinstance(text, str) else text for text in some]


def name_examples(labels: Any) -> bool:
    """Whether the labels of a forward are one text an example, whatever its positions."""
    return bool(labels) and isinstance(labels[0], _OneText)


@dataclass(frozen=True)
class _OneText(Sequence[str]):
    """One text at every position, however many there are."""

    text: str

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: Any) -> Any:
        return self.text


def read_labels(labels: Any) -> LabelsOf | ListedLabels | None:
    """What a user gave as labels.

    Raises:
        NormprobeError: it is neither a function, nor a list of texts or of lists of texts.
    """
    if labels is None or (callable(labels) and not isinstance(labels, type)):
        return labels
    listed = isinstance(labels, Sequence) and not isinstance(labels, str)
    if listed and all(isinstance(text, str) for text in labels):
        return ListedLabels(list(labels))
    if listed and all(isinstance(texts, (list, tuple)) and _are_texts(texts) for texts in labels):
        return ListedLabels(list(labels))
    raise NormprobeError(
        "labels must be a list of str, one an example, a list of lists of str, one a position of each "
        f"example, or a function (args, kwargs) -> list of lists of str; got {type(labels).__name__}"
    )


def _are_texts(texts: Sequence[Any]) -> bool:
    return all(isinstance(text, str) for text in texts)
