"""What can go wrong, as types a caller can catch.

NormprobeError
├── NoLayersError     nothing to probe: no Linear or norm, or a filter matched none
├── ViewError         a layer's tensor cannot be read as rows x features
├── NoSamplesError    nothing was measured
├── RecordingError    a recording cannot be read, written or merged
├── FindingError      a probe that was to stop on a finding has one
├── ModelError        a model cannot be loaded or run
└── DataError         data cannot be read or do not fit the model

NormprobeWarning      what ran, and is likely not what was meant
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class NormprobeError(Exception):
    """Base of every error that normprobe raises on purpose."""


class NoLayersError(NormprobeError):
    """There is nothing to probe: the model has no Linear or norm, or a filter matched none."""


class ViewError(NormprobeError):
    """A layer's tensor cannot be read as rows x features, or a view is declared wrongly."""


class NoSamplesError(NormprobeError):
    """Nothing was measured where measurements are asked for."""


class RecordingError(NormprobeError):
    """A recording cannot be read, written or merged."""


class FindingError(NormprobeError):
    """A run was ended by a finding, as ``Probe(stop_on=)`` asks for; its window is closed.

    Attributes:
        finding: the finding, as ``on_finding`` is told of it.
    """

    def __init__(self, message: str, finding: Mapping[str, object]) -> None:
        super().__init__(message, finding)
        self.finding = finding

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[0])


class ModelError(NormprobeError):
    """A model cannot be loaded or run."""


class DataError(NormprobeError):
    """Data cannot be read, or do not fit the model."""


class NormprobeWarning(UserWarning):
    """What was done is likely not what was meant, such as a block in which nothing was measured."""


def warn(text: str) -> None:
    """Warn of something, at the line of the user's that led here."""
    package, level = __name__.partition(".")[0], 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, NormprobeWarning, stacklevel=level)


def names_checked(call: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Let a function say of a misspelt keyword argument which one may be meant; a TypeError as Python's."""
    known = inspect.signature(call).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())

    @functools.wraps(call)
    def checked(*args: _Parameters.args, **options: _Parameters.kwargs) -> _Result:
        for name in () if takes_all else options:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {close[0]}?" if close else f"; it takes {', '.join(_by_name(known))}"
                asked = call.__qualname__.removesuffix(".__init__")
                raise TypeError(f"{asked}() got an unexpected keyword argument {name!r}{hint}")
        return call(*args, **options)

    return checked


def _by_name(known: Mapping[str, inspect.Parameter]) -> list[str]:
    """The arguments that are given by name."""
    return [name for name, parameter in known.items() if parameter.kind is parameter.KEYWORD_ONLY]
