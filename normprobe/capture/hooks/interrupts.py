"""What an interrupt must not cut short: the end of a block, and the gradient mode that a probe changes.

Python raises a KeyboardInterrupt, or whatever a signal's handler raises, between any two steps of any
function, `__enter__` and `__exit__` of a block among them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

import torch

_ATTEMPTS = 100
"""How often a step is begun again; more interrupts than that in one step are no accident."""


def finish(*steps: Callable[[], None]) -> None:
    """Do every step to its end, then raise the first error that was raised meanwhile.

    Args:
        *steps: what to do, in order. One that was cut short is done again, so each must allow that.
    """
    raised: BaseException | None = None
    for step in steps:
        for _ in range(_ATTEMPTS):
            try:
                step()
                break
            except BaseException as error:
                raised = raised or error
    if raised is not None:
        raise raised


class NoGrad(threading.local):
    """Blocks without gradients, after which `restore` puts right what an interrupt left of them.

    `torch.no_grad` is Python: interrupted as it begins or ends, it leaves the mode off in the thread. Here
    the mode before is noted first and forgotten last. Blocks may be nested; each thread has its own.
    """

    def __init__(self) -> None:
        self._before: list[bool] = []

    def __enter__(self) -> None:
        """Switch gradients off."""
        self._before.append(torch.is_grad_enabled())
        torch.set_grad_enabled(False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the thread its mode back."""
        torch.set_grad_enabled(self._before[-1])
        self._before.pop()

    def enabled_around(self) -> bool:
        """Whether gradients are on outside all blocks of this thread."""
        return self._before[0] if self._before else torch.is_grad_enabled()

    def restore(self, mode: bool) -> None:
        """Give this thread a mode back, if a block was cut short that had switched it off."""
        if any(self._before):
            torch.set_grad_enabled(mode)
        self._before.clear()
