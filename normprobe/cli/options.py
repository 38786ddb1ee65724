"""The options that commands share, and the request they add up to."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar

import click

from normprobe.errors import NormprobeError
from normprobe.loading.constants import DTYPES
from normprobe.vocabulary import ALL_KINDS, DEFAULT, FURTHER_KINDS, GROUP_RULES, KINDS

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Request:
    """The options of a measurement, as they stand on the command line.

    Attributes:
        data: what ``--data`` names; None for the bundled set.
        column: the column of a table that holds the text.
        batch_size: texts, images or rows a batch.
        limit: only the first so many of them.
        device: ``auto`` or a device of torch.
        dtype: one of `DTYPES`.
        layers: glob patterns of names.
        kinds: the kinds of layers.
        samples: how many samples are kept a layer, or ``all``.
        weights: a file of weights for a model from a callable.
        trust_remote_code: whether code of the checkpoint may run.
        experts: whether experts that one weight holds are measured, too.
        kurtosis: whether kurtosis is measured, too.
        quantiles: whether values are counted in bins, too.
        name: what to call the model; None for its own name, with the file of its weights.
        groups: how samples are told apart, one of `GROUP_RULES`; None for not at all.
        written: the names of those that stand on the command line, not in settings, for messages.
        residual: whether the blocks of the residual stream are measured, too.
    """

    data: str | None
    column: str | None
    batch_size: int | None
    limit: int | None
    device: str
    dtype: str
    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    samples: int | str
    weights: str | None
    trust_remote_code: bool
    experts: bool = False
    kurtosis: bool = False
    quantiles: bool = False
    name: str | None = None
    groups: str | None = None
    written: tuple[str, ...] = ()
    residual: bool = False

    @staticmethod
    def plain() -> Request:
        """The request of a command line without options."""
        # As the options below have it: what differs was given.
        return Request(None, None, None, None, "auto", "auto", (), (), 1024, None, False)

    def given(self) -> list[str]:
        """The options on the command line, as they are written; those of settings are for models alone."""
        return [f"--{name.replace('_', '-')}" for name in self.written]


class Kinds(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """Kinds of layers, one or several with commas between."""

    name = "kind"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Split at commas, put the default kinds for their word, and refuse what is no kind."""
        if isinstance(value, tuple):  # click converts defaults, too
            return value
        kinds = tuple(part.strip() for part in value.split(",") if part.strip())
        for kind in kinds:
            if kind not in (*ALL_KINDS, DEFAULT):
                self.fail(f"{kind!r} is not one of {', '.join((*ALL_KINDS, DEFAULT))}", param, ctx)
        every = ((kind,) if kind != DEFAULT else KINDS for kind in kinds)
        return tuple(dict.fromkeys(kind for some in every for kind in some))


class Samples(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A number of samples, or "all"."""

    name = "number|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """An int from 0, or "all"."""
        if value == "all" or isinstance(value, int):
            return value if value == "all" else int(value)
        # Of ASCII: Python calls a superscript two a digit, and reads it as no number.
        if not re.fullmatch("[0-9]{1,18}", str(value)):
            self.fail(f"{value!r} is neither a number from 0 nor 'all'", param, ctx)
        return int(value)


class CheckName(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """The name of a check, or a part that only one has."""

    name = "check"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name as it was given; refuse what is of no check, or of several."""
        from normprobe.findings import selected

        try:
            selected((str(value),))
        except NormprobeError as cause:
            self.fail(str(cause), param, ctx)
        return str(value)


_MEASURING = [
    click.option(
        "--data", metavar="PATH", help="Texts, images or arrays; without it a small set that ships."
    ),
    click.option("--column", metavar="NAME", help="The column of a table that holds the text."),
    click.option(
        "--batch-size", type=click.IntRange(min=1), help="Texts, images or rows a batch (8; arrays 64)."
    ),
    click.option(
        "--limit", type=click.IntRange(min=1), help="Use only the first so many (batches of a callable)."
    ),
    click.option("--device", default="auto", show_default="cuda if there is one, else cpu"),
    click.option(
        "--dtype",
        default="auto",
        type=click.Choice(DTYPES),
        show_default="as stored",
    ),
    click.option(
        "--layers", multiple=True, metavar="GLOB", help="Only layers of such names; may be repeated."
    ),
    click.option(
        "--kinds",
        multiple=True,
        type=Kinds(),
        help=f"Only these kinds: {', '.join(KINDS)} (the default); {', '.join(FURTHER_KINDS)}.",
    ),
    click.option("--residual", is_flag=True, help="Also the residual stream, at the blocks that repeat."),
    click.option("--samples", default=1024, type=Samples(), show_default=True, help="Samples kept a layer."),
    click.option("--experts", is_flag=True, help="Also measure each expert of a mixture of experts."),
    click.option("--kurtosis", is_flag=True, help="Measure the kurtosis of layers, features, samples too."),
    click.option("--quantiles", is_flag=True, help="Count all values in bins too, for quantiles and fit."),
    click.option("--weights", metavar="FILE", help="Safetensors or state dict for module.py:callable."),
    click.option("--name", metavar="TEXT", help="What to call the model in titles and documents."),
    click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the checkpoint."),
]
debug = click.option("--debug", is_flag=True, help="Show tracebacks and what other libraries print.")


def measuring(command: _Command) -> _Command:
    """Add the options of a measurement to a command."""
    # Reversed, as the option that is applied last comes first in --help.
    return reduce(lambda wrapped, option: option(wrapped), reversed(_MEASURING), command)


def grouping(command: _Command) -> _Command:
    """Add the option that tells samples apart."""
    return click.option(
        "--groups",
        type=click.Choice(GROUP_RULES),
        help="Tables and report with a row for each group of samples.",
    )(command)


def quietly(command: _Command) -> _Command:
    """Add the option to print nothing but what failed."""
    return click.option("-q", "--quiet", is_flag=True, help="Print only errors and what fails, on stderr.")(
        command
    )


def request_of(options: dict[str, Any]) -> Request:
    """The request that a command's options add up to."""
    # Each --kinds may hold several, with commas between.
    kinds = tuple(kind for group in options.pop("kinds") for kind in group)
    written = tuple(name for name in (*options, "kinds") if is_written(name))
    return Request(**options, kinds=kinds, written=written)


def is_written(name: str) -> bool:
    """Whether an option of the running command stands on the command line."""
    # Not by its value: the default may be what was written.
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE
