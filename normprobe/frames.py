"""Whether a call of a module is still under way: torch runs no hook when a KeyboardInterrupt ends it."""

from __future__ import annotations

import sys
from types import FrameType

from torch.nn.modules import module as _calls

_FILE = _calls.__file__


def calling() -> FrameType | None:
    """The innermost call of a module that this code is a hook of; to be let go of when the call ends.

    The frame itself must be held: of one that is gone, Python gives the address to the next.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename != _FILE:
        frame = frame.f_back
    return frame


def is_under_way(call: FrameType | None) -> bool:
    """Whether this thread is still inside the call; True where nothing is known of it."""
    frame: FrameType | None = sys._getframe()
    while call is not None and frame is not None:
        if frame is call:
            return True
        frame = frame.f_back
    return call is None
