"""The recordings of all processes of a group become one, on its first process or on all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch.distributed as dist

from normprobe.errors import NormprobeError, RecordingError, names_checked
from normprobe.recording import Recording, load, merge

_FILE = "part.normprobe"
_AT_ONCE = 16
"""How many recordings are merged at a time: all at once would not fit into memory."""


@names_checked
def gather(
    recording: Recording | None,
    group: Any = None,
    all: bool = False,  # noqa: A002 - the word for it
) -> Recording | None:
    """Merge the recordings of all processes of a group, exactly: moments and kept samples travel, no tensors.

    >>> with normprobe.Probe(model) as probe:
    ...     train(model)
    >>> whole = normprobe.gather(probe.recording)
    >>> if whole is not None:                       # on rank 0
    ...     whole.report()

    Every process of the group must call it, as any collective function of torch.distributed; those that wait
    for one that does not are ended by the group's timeout. A process whose probe raised, or that has no
    recording, gives None, and the whole says that it lacks its part. With the nccl backend each process has
    set its device before, by ``torch.cuda.set_device``. Windows of a run stay where they are: what travels is
    the whole of each process.

    Args:
        recording: this process's; None where it has none.
        group: a process group; None for all processes.
        all: whether every process gets the merged recording.

    Returns:
        The merged recording on the first process of the group, and with ``all`` on every one; else None.
        Without torch.distributed the recording itself.

    Raises:
        NormprobeError: what was given is no recording.
        RecordingError: no process has a recording, or they cannot be merged, as for `merge`; with ``all``
            on every process, else on the first.
    """
    if recording is not None and not isinstance(recording, Recording):
        raise NormprobeError(
            f"gather takes this process's recording, or None, got {type(recording).__name__}"
        )
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        if recording is None:
            raise RecordingError("no process has a recording")
        return recording
    if dist.get_rank(group) < 0:  # not one of the group
        return None
    first = dist.get_global_rank(group, 0) if group is not None else 0
    if dist.get_rank(group) > 0:
        dist.send_object_list([None if recording is None else to_bytes(recording)], first, group=group)
        return _broadcast(None, first, group) if all else None
    try:
        whole = _received(recording, group)
    except RecordingError as error:
        if all:
            dist.broadcast_object_list([str(error)], first, group=group)
        raise
    if all:
        dist.broadcast_object_list([to_bytes(whole)], first, group=group)
    return whole


def _received(recording: Recording | None, group: Any) -> Recording:
    """The recordings of all processes merged, on the first one."""
    # All are received before any is merged: where that raises, no process waits for its turn to send.
    sent: list[bytes | None] = [None]
    for rank in range(1, dist.get_world_size(group)):
        held: list[Any] = [None]
        source = rank if group is None else dist.get_global_rank(group, rank)
        dist.recv_object_list(held, source, group=group)
        sent.append(held[0])
    missing = [rank for rank, data in enumerate(sent) if data is None and (rank or recording is None)]
    own = [] if recording is None else [recording]
    every = [data for data in sent if data is not None]
    if not own and not every:
        raise RecordingError("no process has a recording")
    whole = _merged(own, every)
    if missing:
        names = ", ".join(map(str, missing))
        said = f"incomplete: of {len(sent)} processes those of rank {names} gave no recording"
        whole = whole.annotate(warnings=sorted({*whole.meta["warnings"], said}))
    return whole


def _merged(own: list[Recording], sent: list[bytes]) -> Recording:
    """Merge recordings, a few at a time, each read just before."""
    whole, rest = own, list(sent)
    while rest:
        some, rest = rest[:_AT_ONCE], rest[_AT_ONCE:]
        whole = [merge(*whole, *map(from_bytes, some))]
    return whole[0] if len(whole) == 1 else merge(*whole)


def _broadcast(data: bytes | None, first: int, group: Any) -> Recording:
    held: list[Any] = [data]
    dist.broadcast_object_list(held, first, group=group)
    if isinstance(held[0], str):
        raise RecordingError(held[0])
    return from_bytes(held[0])


def to_bytes(recording: Recording) -> bytes:
    """A recording as its file holds it, with the texts of samples."""
    with tempfile.TemporaryDirectory() as folder:
        return recording.save(Path(folder) / _FILE, labels=True).read_bytes()


def from_bytes(data: bytes) -> Recording:
    """The recording of `to_bytes`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _FILE
        path.write_bytes(data)
        return load(path)
