"""What the callbacks of all trainers share: their arguments, and the training that they follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypedDict

from torch import nn

from normprobe.capture.forwards.group_options import GroupsOption
from normprobe.capture.forwards.label_options import LabelsOption
from normprobe.capture.forwards.mask_options import MaskOption
from normprobe.errors import NormprobeError
from normprobe.integrations.metrics import check_limit
from normprobe.integrations.training_run import Log, LogOfWindows, TrainingRun
from normprobe.layers.filters import LayerFilter
from normprobe.recording import Recording

VALIDATION = "validation"

Window = int | Literal["logging"] | None
"""So many steps; "logging", from one logging step of the trainer to the next; None, the whole run."""


class ProbeOptions(TypedDict, total=False):
    """The options that a callback hands on to `normprobe.Probe` as they are."""

    layers: LayerFilter | None
    kinds: str | Iterable[str] | None
    mask: MaskOption
    samples: int | Literal["all"]
    values: int
    max_windows: int | None
    groups: GroupsOption
    labels: LabelsOption
    seed: int
    gradients: bool
    on_finding: Callable[[Mapping[str, Any]], object] | None
    stop_on: Literal["error", "warning"] | None


class CallbackOptions:
    """The arguments that the callbacks of all trainers have, and the run that goes on.

    Attributes:
        every: measure every so many steps.
        window: how long a window is.
        run: the training that goes on, or the last one; None before the first.
    """

    def __init__(
        self,
        *,
        every: int,
        window: Window,
        out: str | Path | None,
        log: bool | Log,
        limit: int,
        options: Mapping[str, Any],
    ) -> None:
        if isinstance(window, str) and window != "logging":
            raise NormprobeError(f'window must be a whole number, "logging" or None, got {window!r}')
        known = ProbeOptions.__annotations__
        for name in options:
            if name not in known:
                close = get_close_matches(name, [*known, "every", "window", "out", "log", "limit"], 1)
                hint = f"; did you mean {close[0]}?" if close else f"; it takes {', '.join(known)}"
                raise TypeError(f"unexpected keyword argument {name!r}{hint}")
        check_limit(limit)
        self.every, self.window = every, window
        # Lightning puts a `log` of its own on callbacks.
        self._log_to = log
        self._out, self._limit, self._options = out, limit, dict(options)
        self._ended = True
        self.run: TrainingRun | None = None

    @property
    def recording(self) -> Recording:
        """What was measured so far.

        Raises:
            NormprobeError: no training has begun.
        """
        if self.run is None:
            raise NormprobeError("nothing was recorded yet: the callback's trainer has not begun to train")
        return self.run.probe.recording

    def begin(self, model: nn.Module, *, step: int, scaler: Any, rank: int | None) -> None:
        """Attach a probe to a model that begins to train, or goes on behind a step.

        Args:
            model: what is trained.
            step: how many steps were made before.
            scaler: the scaler of the loss, if there is one.
            rank: which of several processes this is; None for a single one.
        """
        self.close()
        # A run that failed is begun anew by its callback: by a trainer that halves the batch, say.
        resumes = self._out is not None and (step > 0 or not self._ended)
        self._ended = False
        self.run = TrainingRun(
            model,
            logs=LogOfWindows(self._limit),
            trains=True,
            every=self.every,
            window=self.window if isinstance(self.window, int) else None,
            out=self._out,
            resume_from=step if resumes else None,
            part=None if rank is None else f"rank{rank}",
            scaler=scaler if self._options.get("gradients", False) else None,
            **self._options,
        )

    def begin_evaluation(self, model: nn.Module, rank: int | None) -> None:
        """Attach the probe of a model's training once more where it is evaluated, or a new one."""
        # The same model: what a test measures after `fit` joins the recording of the training.
        if self.run is not None and self.run.probe.model is model:
            self.run.enter()
            self.run.trains = False
            return
        self.close()
        part = None if rank is None else f"rank{rank}"
        logs = LogOfWindows(self._limit)
        self.run = TrainingRun(model, logs=logs, trains=False, every=self.every, part=part, **self._options)

    def end(self) -> None:
        """Remove the hooks at the end of a training that went well."""
        self._ended = True
        self.close()

    def close(self) -> None:
        """Remove the hooks and close the windows, as after an exception that the trainer tells nobody of."""
        if self.run is not None:
            self.run.close()

    @property
    def writes_windows(self) -> bool:
        """Whether windows are on disk, to resume from."""
        return self._out is not None
