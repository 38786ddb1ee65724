"""The callback for `transformers.Trainer`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Unpack

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from normprobe.integrations.callback_options import VALIDATION, CallbackOptions, ProbeOptions, Window
from normprobe.integrations.trackers import Trackers
from normprobe.integrations.training_run import Log

__all__ = ["NormprobeCallback"]


class NormprobeCallback(CallbackOptions, TrainerCallback):
    """Measures a model while `transformers.Trainer` trains it.

    >>> callback = NormprobeCallback(every=10, out="run.windows")
    >>> Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
    >>> callback.recording.windows

    Steps are the trainer's ``global_step``. Evaluation during training is the phase "validation"; evaluation
    outside of `train` is not measured, for the trainer does not tell when it begins. Hooks are attached while
    `train` runs. After an exception, of which the trainer tells nobody, they go with the trainer, with the
    next `train`, or at once by `close`.

    A run that resumes from a checkpoint goes on with the windows in ``out`` up to its step, so that none
    counts twice; where a checkpoint is saved, windows are closed. Of several processes each records its own
    data, as a part "rank0", "rank1", ..., and the first one logs.
    """

    def __init__(
        self,
        *,
        every: int = 10,
        window: Window = "logging",
        out: str | Path | None = None,
        log: bool | Log = True,
        limit: int = 50,
        **options: Unpack[ProbeOptions],
    ) -> None:
        """Choose what to measure; nothing touches a model before it is trained.

        Args:
            every: measure every so many steps.
            window: close a window of the recording after so many steps; "logging" where the trainer logs;
                None, not before the end.
            out: a folder for the windows, so that a run that is killed keeps them; None keeps them in memory.
            log: write `normprobe.scalars` of each window to the trackers in ``report_to``: TensorBoard
                (beside the trainer's own run), W&B, MLflow or trackio; or a function of numbers and step.
            limit: how many numbers of a window.
            options: layers, kinds, mask, samples, values, max_windows, labels, seed, gradients, on_finding
                and stop_on, as of `normprobe.Probe`. The scale of a GradScaler is taken from the trainer.

        Raises:
            TypeError: there is no such option.
            NormprobeError: ``window`` or ``limit`` is out of range.
        """
        super().__init__(every=every, window=window, out=out, log=log, limit=limit, options=options)
        self._write: Log | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach the hooks."""
        # A single process is no part among others, and its windows keep the usual name.
        several = args.world_size > 1
        self.begin(
            kwargs["model"],
            step=state.global_step,
            # Accelerate's wrapper of the optimizer holds it.
            scaler=getattr(kwargs.get("optimizer"), "scaler", None),
            rank=args.process_index if several else None,
        )
        self._write = self._writer(args, state)
        self._validating()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count forwards as those of training."""
        if self.run is not None:
            self.run.leave_phase()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End a step."""
        if self.run is not None:
            # Whether to log was decided by the trainer's own callback, which comes first.
            self.run.end_step(state.global_step, close=self.window == "logging" and control.should_log)
            self.run.log(self._write)
            self._validating()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the windows, so that a run that resumes here loses none."""
        if self.run is not None and self.writes_windows:
            self.run.close_windows()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log what is left with the trainer's last log: its trackers end before it tells of its end."""
        # Only the last log of `train` has this entry.
        if self.run is not None and "train_runtime" in (kwargs.get("logs") or {}):
            self.run.close_windows()
            self.run.log(self._write)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remove the hooks."""
        self.end()

    def _validating(self) -> None:
        # The trainer tells when an evaluation ends, not when it begins: what runs between two steps is one.
        if self.run is not None:
            self.run.enter_phase(VALIDATION)

    def _writer(self, args: TrainingArguments, state: TrainerState) -> Log | None:
        if not state.is_world_process_zero or self._log_to is False:
            return None
        if callable(self._log_to):
            return self._log_to
        # Newer versions of transformers read the variable and have no such argument.
        given = getattr(args, "logging_dir", None) or os.environ.get("TENSORBOARD_LOGGING_DIR")
        return Trackers(args.report_to, Path(given or Path(str(args.output_dir), "runs")) / "normprobe")
