"""Who calls a model, by Python's frames: a forward on no data, or one of a pipeline stage.

The functions of others, read in torch 2.13 and Lightning 2.6, are looked for only where their modules are
loaded.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any, NamedTuple

_STAGES = "torch.distributed.pipelining.stage"
_RUN = "forward_one_chunk"
"""The method of a pipeline stage that runs its module on a micro-batch."""

_SHAPES = "a forward by which a pipeline stage infers shapes is left out"
_SANITY = "a forward of the trainer's sanity check is left out"
_SUMMARY = "a forward on an example input, for a summary, is left out"
_TRAINERS = ("lightning.pytorch", "pytorch_lightning")
_NO_DATA: dict[str, dict[str, str]] = {
    _STAGES: {
        # On uninitialised memory, but for the first stage, which has the first micro-batch a second time.
        "_forward_metadata_inference": _SHAPES,
        "_shape_inference": _SHAPES,  # before torch 2.12
    },
    **{f"{trainer}.trainer.trainer": {"_run_sanity_check": _SANITY} for trainer in _TRAINERS},
    **{
        f"{trainer}.utilities.model_summary.model_summary": {"_forward_example_input": _SUMMARY}
        for trainer in _TRAINERS
    },
}
"""Functions of others, by their modules, that call a model on what is no data of a run."""


class Stage(NamedTuple):
    """A stage of a pipeline.

    Attributes:
        place: its index, and how many stages there are.
        group: the process group that they are spread over; None for all processes.
    """

    place: tuple[int, int]
    group: Any


class Caller(NamedTuple):
    """Who calls a model.

    Attributes:
        no_data: why that forward is on no data, or "".
        stage: the pipeline stage whose module it is, if one calls it.
    """

    no_data: str = ""
    stage: Stage | None = None


NOBODY = Caller()


def who_calls() -> Caller:
    """Who calls the model that a forward begins with; nobody is asked where no such module is loaded."""
    names = _NO_DATA.keys() & sys.modules.keys()
    if not names:
        return NOBODY
    loaded = {sys.modules[name].__file__: name for name in names}
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        name = loaded.get(frame.f_code.co_filename)
        if name is not None:
            function = frame.f_code.co_name
            if function in _NO_DATA[name]:
                return Caller(_NO_DATA[name][function])
            if name == _STAGES and function == _RUN:
                return Caller(stage=_stage_of(frame.f_locals.get("self")))
        frame = frame.f_back
    return NOBODY


def _stage_of(stage: Any) -> Stage | None:
    """What a stage says of itself, by its public attributes."""
    index, count = getattr(stage, "stage_index", None), getattr(stage, "num_stages", None)
    if isinstance(index, int) and isinstance(count, int):
        return Stage((index, count), getattr(stage, "group", None))
    return None
