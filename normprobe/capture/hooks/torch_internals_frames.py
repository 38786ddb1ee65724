"""Calls of modules as Python runs them: which is the innermost, and whether one has ended."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from torch.nn.modules import module as _calls

_FILE = _calls.__file__


def calling() -> FrameType | None:
    """The innermost call of a module that this code is part of; to be let go of when the call ends.

    The frame itself must be held: of one that is gone, Python gives the address to the next.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename != _FILE:
        frame = frame.f_back
    return frame


def called() -> Any:
    """The module whose call is the innermost one, or None."""
    frame = calling()
    return None if frame is None else frame.f_locals.get("self")


def is_over(call: FrameType | None) -> bool:
    """Whether the call has ended, however it did; False where nothing is known of it.

    Torch runs no hook when a KeyboardInterrupt ends a call. Python clears the local variables of a call that
    has ended and refuses to clear those of one under way, at the same small price at any depth.
    """
    if call is None:
        return False
    try:
        call.clear()
    except RuntimeError:
        return False
    return True
