"""Several processes of torch.distributed on this machine, started once for many tests."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MODULES = ["torch.distributed.tensor.parallel", "torch.distributed.fsdp", "normprobe", "normprobe.probe"]
TIMEOUT = 120  # seconds


class Processes:
    """Processes that wait for work: each runs a function of a module, given its rank, at the same time."""

    def __init__(self, most: int) -> None:
        # Forked from one that has imported torch: importing takes longer than any test.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(MODULES)
        self._ends, self._processes = [], []
        for _ in range(most):
            end, other = context.Pipe()
            process = context.Process(target=_work, args=(other,), daemon=True)
            process.start()
            self._ends.append(end)
            self._processes.append(process)

    def run(self, size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What ``function(rank, *args)`` gives in each of so many processes that form a group of gloo."""
        with tempfile.TemporaryDirectory() as folder:
            for rank, end in enumerate(self._ends[:size]):
                end.send((function, rank, size, str(Path(folder) / "store"), args))
            found = [end.recv() if end.poll(TIMEOUT) else "no answer" for end in self._ends[:size]]
        failed = [text for text in found if isinstance(text, str)]
        assert not failed, "\n".join(failed)
        return [result[0] for result in found]

    def end(self) -> None:
        """Let them go."""
        for end in self._ends:
            end.send(None)
        for process in self._processes:
            process.join(TIMEOUT)


def _work(end: Connection) -> None:
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    while (task := end.recv()) is not None:
        function, rank, size, store, args = task
        try:
            distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
            end.send((function(rank, *args),))
        except BaseException:
            end.send(traceback.format_exc())
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()
