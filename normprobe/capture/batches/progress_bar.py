"""How far a run over batches is: a bar on a terminal or in a notebook, or a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

from normprobe.errors import NormprobeError

Progress = bool | Callable[[int], None] | None
"""True for a bar; a function that is called with the number of batches done, after each."""


@contextmanager
def counting(progress: Progress, batches: Any) -> Iterator[Callable[[int], None]]:
    """What to call with the number of batches done.

    Args:
        progress: as the user gave it.
        batches: what is worked through; the bar has an end where it has a length.

    Raises:
        NormprobeError: ``progress`` is none of these.
    """
    if progress is None or progress is False:
        yield _nothing
    elif progress is True:
        # Loaded only where a bar is asked for.
        from rich.console import Console
        from rich.progress import Progress as Bar

        total = len(batches) if isinstance(batches, Sized) else None
        # Gone at the end, as on the command line; rich draws nothing where stderr is no terminal.
        with Bar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("Batches", total=total)
            yield lambda done: bar.update(task, completed=done)
    elif callable(progress):
        yield progress
    else:
        raise NormprobeError(
            "progress must be True for a bar, or a function of the number of batches done; "
            f"got {type(progress).__name__}"
        )


def _nothing(done: int) -> None:
    """Show nothing."""
