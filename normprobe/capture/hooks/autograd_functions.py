"""Which autograd function Python code is run by: a part that is checkpointed runs in one, twice."""

from __future__ import annotations

import sys
from types import FrameType

import torch
from torch.autograd.function import FunctionCtx

_ENGINE = {torch.autograd.backward.__code__, torch.autograd.grad.__code__}
_RUN = ("forward", "backward")


def enclosing_function() -> FunctionCtx | None:
    """The context of the innermost autograd function whose forward or backward this code is part of.

    Reentrant checkpointing (torch's, and those of others that are made likewise) runs a part of a model in
    the forward of such a function, without gradients, and again in its backward; the context is one object
    in both. Found by frames of Python, as nothing public says it. None within a backward that such a
    function begins itself: what runs there is recomputed by others.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code in _ENGINE:
            return None
        # By this name everywhere; the variables of other frames are not touched, which would keep them alive.
        if code.co_name in _RUN and code.co_varnames[:1] == ("ctx",):
            context = frame.f_locals.get("ctx")
            if isinstance(context, FunctionCtx):
                return context
        frame = frame.f_back
    return None
