"""A command in several processes, as torchrun starts them: the data are dealt to them, the first one writes.

Only the first prints. An error of any process is one line of the first one's, and all end with status 1.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from normprobe.cli.error_lines import message
from normprobe.errors import NormprobeError

if TYPE_CHECKING:
    from normprobe.recording import Recording

SHARDED = frozenset({"report", "export", "fit"})
"""The commands that deal data to processes; of any other the first process does all."""


def shard() -> tuple[int, int] | None:
    """Which process this is, and of how many; None where it is alone. The variables are torchrun's."""
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return None
    return (rank, size) if size > 1 else None


def begin_process(command: str | None) -> None:
    """Let every process but the first be silent, and end where it has nothing to do."""
    if command not in SHARDED:
        end_others()
    elif not _is_first():
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()


def end_others() -> None:
    """End here every process but the first, which alone has something to do."""
    if not _is_first():
        raise click.exceptions.Exit(0)


def _is_first() -> bool:
    own = shard()
    return own is None or own[0] == 0


def on_all_processes(measure: Callable[[tuple[int, int] | None], Recording]) -> Recording:
    """What processes measure of their shards, merged, on the first one; all others end here.

    Args:
        measure: gives the recording of a shard, or of all data where there is one process.

    Raises:
        NormprobeError: another process failed; what it said is in the message.
    """
    own = shard()
    if own is None:
        return measure(None)
    from torch import distributed

    distributed.init_process_group("gloo")
    try:
        recording = _gathered(measure, own)
    finally:
        distributed.destroy_process_group()
    if recording is None:
        raise click.exceptions.Exit(0)
    return recording


def _gathered(
    measure: Callable[[tuple[int, int] | None], Recording], own: tuple[int, int]
) -> Recording | None:
    from torch import distributed

    from normprobe.gathering.gather import gather

    recording, error = None, None
    try:
        recording = measure(own)
    # Whatever it is, it is told to the others, which would wait for this process.
    except Exception as cause:
        error = cause
    said: list[Any] = [None] * own[1]
    distributed.all_gather_object(said, None if error is None else message(error))
    if any(said):
        if own[0] > 0:
            raise click.exceptions.Exit(1)
        if error is not None:
            raise error
        failed = next(rank for rank, text in enumerate(said) if text)
        raise NormprobeError(f"process {failed} of {own[1]}: {said[failed]}")
    assert recording is not None
    whole = gather(recording)
    # Those of the processes ran side by side: their sum is nothing that anyone waited for.
    return None if whole is None else whole.annotate(seconds=recording.meta["seconds"])
