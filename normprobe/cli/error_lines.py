"""One line on stderr for every error, and silence for what other libraries print."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from normprobe.errors import NormprobeError

_DISABLE_BARS = "TQDM_DISABLE"  # read when tqdm is imported, which is later than here
_MOST = 1000  # letters of an error
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def with_error_lines(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command its ``--debug``, and make its errors one line on stderr with exit status 1.

    With ``--debug`` every error keeps its traceback, and warnings of other libraries are shown. Ctrl-C ends
    in one line and exit status 130.
    """

    @functools.wraps(command)
    def run(*args: Any, debug: bool, **options: Any) -> None:
        try:
            with _silenced(not debug):
                command(*args, **options)
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None
        # Click's own ways to end: usage with exit status 2, and no word about a pipe that was closed.
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as cause:
            if debug:
                raise
            click.echo(f"Error: {_cut(message(cause))}", err=True)
            raise click.exceptions.Exit(1) from None

    return run


def message(cause: Exception) -> str:
    """An error in one line: what is wrong and how to mend it, or that it is a defect of normprobe."""
    text = " ".join(str(cause).split())
    if isinstance(cause, NormprobeError):
        return text
    if isinstance(cause, MemoryError):
        return "out of memory; try a smaller --batch-size, a --limit or a smaller --dtype"
    if isinstance(cause, OSError) and cause.strerror:
        return f"{cause.strerror}: {cause.filename}" if cause.filename else cause.strerror
    return f"{type(cause).__name__}: {text} (a defect of normprobe; --debug shows where, please report it)"


def _cut(text: str) -> str:
    """A message cut in its middle: what it repeats of the input may be endless."""
    return text if len(text) <= _MOST else f"{text[: _MOST - 300]} … {text[-300:]}"


@contextmanager
def _silenced(active: bool) -> Iterator[None]:
    """Silence the warnings, loggers and progress bars of other libraries, and restore all three."""
    if not active:
        yield
        return
    level, bars = logging.root.manager.disable, os.environ.get(_DISABLE_BARS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        os.environ[_DISABLE_BARS] = "1"
        try:
            yield
        finally:
            logging.disable(level)
            os.environ.pop(_DISABLE_BARS)
            if bars is not None:
                os.environ[_DISABLE_BARS] = bars
