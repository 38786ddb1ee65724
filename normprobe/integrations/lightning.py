"""The callback for Lightning's trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

from lightning.pytorch import Callback, LightningModule, Trainer

from normprobe.integrations.callback_options import VALIDATION, CallbackOptions, ProbeOptions, Window
from normprobe.integrations.training_run import Log

__all__ = ["NormMonitor"]


class NormMonitor(CallbackOptions, Callback):
    """Measures a model while Lightning's `Trainer` trains it.

    >>> monitor = NormMonitor(every=10, out="run.windows")
    >>> Trainer(callbacks=[monitor]).fit(model, loader)
    >>> monitor.recording.windows

    Steps are the trainer's ``global_step``, names of layers those in the LightningModule. Phases are "train",
    "validation", "test" and "predict"; the sanity check ahead of training is left out. Hooks are attached
    while the trainer runs; an exception leaves none. What `test` measures after `fit` joins its recording.

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
            window: close a window of the recording after so many steps; "logging" after the trainer's
                ``log_every_n_steps``; None, not before the end.
            out: a folder for the windows, so that a run that is killed keeps them; None keeps them in memory.
            log: write `normprobe.scalars` of each window to the trainer's loggers; or a function of numbers
                and step that does.
            limit: how many numbers of a window.
            options: layers, kinds, mask, samples, values, max_windows, labels, seed, gradients, on_finding
                and stop_on, as of `normprobe.Probe`. The scale of a GradScaler is taken from the trainer.

        Raises:
            TypeError: there is no such option.
            NormprobeError: ``window`` or ``limit`` is out of range.
        """
        super().__init__(every=every, window=window, out=out, log=log, limit=limit, options=options)
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach the hooks: behind the sanity check, which runs an untrained model."""
        self._begin(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End a step, unless this batch's gradients only were added to those of the next one."""
        step = trainer.global_step
        # While gradients are accumulated `global_step` stays, and no step of the optimizer has ended.
        if self.run is not None and step > self._step:
            every = trainer.log_every_n_steps
            logs = self.window == "logging" and every > 0 and step // every > self._step // every
            self._step = step
            self.run.end_step(step, close=logs)
            self._log(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count forwards as those of validation."""
        if not trainer.sanity_checking:
            self._enter(trainer, pl_module, VALIDATION)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count forwards as those of training."""
        self._leave(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach the hooks for a test."""
        self._enter(trainer, pl_module, "test")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hooks."""
        self._leave(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach the hooks for a prediction."""
        self._enter(trainer, pl_module, "predict")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hooks."""
        self._leave(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Close the windows, so that a run that resumes here loses none."""
        if self.run is not None and self.writes_windows:
            self.run.close_windows()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the hooks, and log what is left while the loggers take it."""
        # Before logging: closing the hooks closes the last window, which is then logged, too.
        self.end()
        self._log(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks, and close the windows."""
        self.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks, whatever ended without its own event."""
        self.close()

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        self.begin(
            pl_module,
            step=trainer.global_step,
            # Only the plugin of mixed precision has one.
            scaler=getattr(trainer.precision_plugin, "scaler", None),
            rank=_rank(trainer),
        )

    def _enter(self, trainer: Trainer, pl_module: LightningModule, phase: str) -> None:
        if self.run is None or not self.run.active:
            self.begin_evaluation(pl_module, _rank(trainer))
        assert self.run is not None
        self.run.enter_phase(phase)

    def _leave(self, trainer: Trainer) -> None:
        if self.run is not None:
            self.run.leave_phase()
            # A probe attached for an evaluation alone ends with it; that of a training goes on.
            if not self.run.trains:
                self.close()
                self._log(trainer)

    def _log(self, trainer: Trainer) -> None:
        if self.run is None:
            return
        writes = trainer.is_global_zero and self._log_to is not False
        self.run.log((self._log_to if callable(self._log_to) else _to_loggers(trainer)) if writes else None)


def _rank(trainer: Trainer) -> int | None:
    return trainer.global_rank if trainer.world_size > 1 else None


def _to_loggers(trainer: Trainer) -> Log:
    def write(numbers: dict[str, float], step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=step)

    return write
