"""What is looked up at every call; the compiled kernel has the same as plain memory, for its hooks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False, slots=True)
class Account:
    """What a site keeps, what it met and how much.

    Attributes:
        samples: whose moments are kept.
        rows: whose raw row is kept.
        dtype: the dtype met last.
        state: the compiled kernel's sums, while that may read tensors as they lie.
        cell: where it finds what it agreed on with the sites that are alike.
        calls: how many firings were measured.
        n_samples: how many samples, those without a finite value included.
        masked: how many rows were left out as padding.
        firings: at the output, how often the layer was called, measured or not.
        decided: whether nothing is left to decide at its calls.
    """

    samples: Any
    rows: Any
    dtype: Any = None
    state: Any = None
    cell: Any = None
    calls: int = 0
    n_samples: int = 0
    masked: int = 0
    firings: int = 0
    decided: bool = False


@dataclass(eq=False, slots=True)
class Pass:
    """What hooks ask of a forward.

    Attributes:
        owner: the module that was called.
        measured: whether the forward is measured.
        session: what listens to torch's functions in it, if anything does.
        open: layers (by index) whose call is under way.
        repeats: per site how often it has fired in this forward.
        memory: what tensors held that were just measured, for the compiled kernel.
        threads: how many threads may measure one tensor.
    """

    owner: Any
    measured: bool
    session: Any = None
    open: set[int] = field(default_factory=set)
    repeats: dict[Any, int] = field(default_factory=dict)
    memory: Any = None
    threads: int = 1
