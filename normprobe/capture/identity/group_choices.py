"""Which samples of a tensor are of which group: choices for the kernel, one a group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normprobe.kernels.choice import Choice
from normprobe.samples.groups import Codes
from normprobe.samples.layout import Assignment


@dataclass(frozen=True, eq=False)
class GroupChoice:
    """The samples of one group of a tensor.

    Attributes:
        code: of the group.
        choice: its rows, for the kernel; nothing is kept by it.
        n_samples: how many of its samples are real.
        masked: how many of its rows are padding.
    """

    code: int
    choice: Choice
    n_samples: int
    masked: int


@dataclass(eq=False)
class PlacedGroups:
    """The groups of the samples of one placement.

    Attributes:
        codes: the group of each sample, shape (samples,).
        names: the names of all codes.
    """

    codes: Codes
    names: list[str]
    _choices: dict[tuple[int, int], tuple[GroupChoice, ...]] = field(default_factory=dict)

    def choices(
        self, assignment: Assignment, real: NDArray[np.bool_] | None, sizes: tuple[int, int]
    ) -> tuple[GroupChoice, ...]:
        """A choice for each group that the tensor has a sample of.

        Args:
            assignment: who the samples are.
            real: shape (samples, rows), True where a row is not padding; None if all are.
            sizes: how many samples, and rows of each.
        """
        # Of one placement there is one assignment and one mask, so sizes alone tell its choices apart.
        if sizes not in self._choices:
            made = (
                _choice_of(int(code), self.codes, assignment, real, sizes) for code in np.unique(self.codes)
            )
            self._choices[sizes] = tuple(made)
        return self._choices[sizes]

    def shifted(self, assignment: Assignment) -> PlacedGroups:
        """The same groups of a forward of the same sizes, whose examples have other numbers."""
        choices = {
            sizes: tuple(_renumbered(group, assignment) for group in groups)
            for sizes, groups in self._choices.items()
        }
        return PlacedGroups(self.codes, self.names, choices)


def _choice_of(
    code: int,
    codes: Codes,
    assignment: Assignment,
    real: NDArray[np.bool_] | None,
    sizes: tuple[int, int],
) -> GroupChoice:
    own = codes == code
    # Without a list the kernel reads every row in turn, which is faster where all are of one group.
    among = None if own.all() else np.flatnonzero(own).astype(np.int64)
    choice = Choice(*sizes, real=real, example=assignment.example, position=assignment.position, among=among)
    if real is None:
        return GroupChoice(code, choice, int(own.sum()), 0)
    return GroupChoice(code, choice, int(real[own].any(1).sum()), int((~real[own]).sum()))


def _renumbered(group: GroupChoice, assignment: Assignment) -> GroupChoice:
    # The extension's form of a choice holds no numbers of samples, so it serves every forward.
    held = {name: made for name, made in group.choice.prepared.items() if name in ("compiled", "picked")}
    numbers: dict[str, Any] = {"example": assignment.example, "position": assignment.position}
    return replace(group, choice=replace(group.choice, **numbers, prepared=held))


def compiled_groups(groups: Iterable[GroupChoice], compiled: Any) -> tuple[tuple[Any, ...], ...]:
    """The groups of a tensor as the extension takes them."""
    return tuple(
        (group.code, compiled.compiled_choice(group.choice), group.n_samples, group.masked)
        for group in groups
    )


def kept_alone(choice: Choice) -> Choice | None:
    """A choice of the samples that another one keeps and of no others; None where it keeps none.

    What a site holds itself of a tensor whose samples are of groups: all sums are its groups'.
    """
    # The prepared forms are of all samples of the other choice, so none of them may be taken over.
    return None if not len(choice.keep) else replace(choice, among=choice.keep, prepared={})
