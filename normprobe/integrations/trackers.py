"""Experiment trackers, for trainers that hand none to their callbacks, under steps of normprobe's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from normprobe.errors import warn
from normprobe.integrations.metrics import PREFIX

STEP = f"{PREFIX}/step"


class Trackers:
    """Writes numbers to the trackers that a trainer reports to.

    No step is told to a tracker that has one counter for all: it would drop what comes behind the trainer's
    next log. There the step is a number beside the others, which charts have as their axis.
    """

    def __init__(self, names: Iterable[str], directory: str | Path) -> None:
        """Choose the trackers.

        Args:
            names: as `transformers.TrainingArguments` has them in ``report_to``.
            directory: where files of TensorBoard go.
        """
        known: dict[str, Callable[[dict[str, float], int], None]] = {
            "tensorboard": self._to_tensorboard,
            "wandb": self._to_wandb,
            "mlflow": self._to_mlflow,
            "trackio": self._to_trackio,
        }
        names = list(names)
        self._writers = [known[name] for name in names if name in known]
        if unknown := [name for name in names if name not in known]:
            warn(
                f"log=True writes to {', '.join(known)}, and not to {', '.join(unknown)}: give log= a "
                "function of numbers and step that does"
            )
        self._directory = directory
        self._tensorboard: Any = None

    def __call__(self, numbers: dict[str, float], step: int) -> None:
        """Write numbers under a step."""
        for write in self._writers:
            write(numbers, step)

    def _to_tensorboard(self, numbers: dict[str, float], step: int) -> None:
        # Not before there are numbers: a writer makes its file at once.
        if self._tensorboard is None:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(self._directory))
        for name, value in numbers.items():
            self._tensorboard.add_scalar(name, value, step)
        # Else the numbers of a run that is killed would still be in its buffer.
        self._tensorboard.flush()

    def _to_wandb(self, numbers: dict[str, float], step: int) -> None:
        import wandb

        # A run that the trainer did not begin is not begun here.
        if wandb.run is not None:
            wandb.run.define_metric(f"{PREFIX}/*", step_metric=STEP)
            wandb.run.log({**numbers, STEP: step})

    def _to_mlflow(self, numbers: dict[str, float], step: int) -> None:
        import mlflow

        if mlflow.active_run() is not None:
            # It refuses other characters, which names of layers may have.
            allowed = {re.sub(r"[^\w/. :-]", "_", name): value for name, value in numbers.items()}
            mlflow.log_metrics(allowed, step=step)

    def _to_trackio(self, numbers: dict[str, float], step: int) -> None:
        import trackio

        if trackio.context_vars.current_run.get() is not None:
            trackio.log({**numbers, STEP: step})
