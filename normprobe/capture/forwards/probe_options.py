"""The options of a probe: checked, resolved and as JSON holds them."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, ParamSpec, TypeVar

from torch import Tensor, nn

from normprobe.capture.forwards.data_share import DataShare
from normprobe.errors import NormprobeError, names_checked
from normprobe.kernels.distributions.options import NO_DISTRIBUTIONS, DistributionOptions
from normprobe.samples.dealing import ALONE, Deal
from normprobe.samples.hashing import process_name, seed_of
from normprobe.tables.records import valid_name

_GIVEN = "raised by what normprobe.Probe was given: its mask, labels, on_finding or stop_on"
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class Further(NamedTuple):
    """What a probe measures beside the activations of layers.

    Attributes:
        loss_scale: what gradients are divided by (`capture.gradients.loss_scale`); None for no gradients.
        experts: whether experts that one weight holds are measured one by one.
        distributions: what is measured of distributions beside moments.
        groups: what says of which group samples are (`group_options.Grouping`); None for no groups.
        share: which share of the data it has.
    """

    loss_scale: Any = None
    experts: bool = False
    distributions: DistributionOptions = NO_DISTRIBUTIONS
    groups: Any = None
    share: DataShare | None = None


NOTHING_FURTHER = Further()


def check_options(samples: Any, values: Any, every: Any, window: Any, mask: Any) -> None:
    """Raise NormprobeError, with what is allowed, for an option out of range."""
    whole = {"values": (values, 0), "every": (every, 1)}
    if window is not None:
        whole["window"] = (window, 1)
    if samples != "all":
        whole["samples"] = (samples, 0)
    for name, (given, least) in whole.items():
        _check_whole(name, given, least, ' or "all"' if name == "samples" else "")
    if not (mask is None or isinstance(mask, (str, Tensor, Mapping)) or callable(mask)):
        raise NormprobeError(
            'mask must be "auto", None, the name of an argument, a tensor, a callable or a dict of tensors '
            f"by layer, got {type(mask).__name__}"
        )


def kept_at_most(samples: int | str, values: int) -> dict[str, Any]:
    """How many samples are kept, None for all, and of how many the raw row, by the names of the options."""
    return {"samples": None if samples == "all" else samples, "values": values}


def check_window_options(most: Any, step: Any) -> None:
    """Raise NormprobeError for an option of how windows are kept that is out of range."""
    for name, given, least in (("max_windows", most, 2), ("resume_from", step, 0)):
        if given is not None:
            _check_whole(name, given, least, ", or None")


def _check_whole(name: str, given: Any, least: int, also: str) -> None:
    if isinstance(given, bool) or not isinstance(given, int) or given < least:
        raise NormprobeError(f"{name} must be a whole number of at least {least}{also}, got {given!r}")


def check_finding_options(on_finding: Any, stop_on: Any) -> None:
    """Raise NormprobeError if findings cannot be told of as asked for."""
    if on_finding is not None and not callable(on_finding):
        raise NormprobeError(f"on_finding must be a callable, such as print, got {on_finding!r}")
    if stop_on not in (None, "error", "warning"):
        raise NormprobeError(f"stop_on must be 'error', 'warning' or None, got {stop_on!r}")


def check_distributions(kurtosis: Any, quantiles: Any, groups: Any) -> DistributionOptions:
    """What is measured beside moments; raise NormprobeError for an option that is neither True nor False.

    So does asking for it together with groups, whose sums are kept apart and have no fourth powers or counts.
    """
    for name, given in (("kurtosis", kurtosis), ("quantiles", quantiles)):
        if not isinstance(given, bool):
            raise NormprobeError(f"{name} must be True or False, got {given!r}")
    if groups is not None and (kurtosis or quantiles):
        raise NormprobeError(
            "groups cannot be measured together with kurtosis or quantiles, which would be of no group; "
            "put a second Probe around the model, with the same seed"
        )
    return DistributionOptions(kurtosis, quantiles)


def check_step(step: Any, last: int | None) -> None:
    """Raise NormprobeError if a step's number is none, or goes back."""
    if step is None:
        return
    _check_whole("step", step, 0, ", or None")
    if last is not None and step < last:
        raise NormprobeError(
            f"step {step} was told after step {last}: steps only go up; give a number that runs on over the "
            "epochs, as trainer.global_step does, or none"
        )


def by_name(
    what: str, count: int
) -> Callable[[Callable[_Parameters, _Result]], Callable[_Parameters, _Result]]:
    """Let a function say which of its arguments are by name, and which one a misspelt one may be.

    Args:
        what: what is given by position, in words.
        count: how many that are, without ``self``.
    """

    def decorate(call: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        name = call.__qualname__.removesuffix(".__init__")
        most = count + (name != call.__qualname__)
        named = names_checked(call)

        @functools.wraps(call)
        def checked(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
            if len(args) > most:
                raise NormprobeError(
                    f"{name} takes {what} by position and its options by name, such as layers=...; got "
                    f"{len(args) - most} more by position, the first a {type(args[most]).__name__}"
                )
            return named(*args, **kwargs)

        return checked

    return decorate


@contextmanager
def users_own() -> Iterator[None]:
    """A block that runs or reads what the user gave: its errors are the user's own, and say so."""
    try:
        yield
    except Exception as error:
        error.add_note(_GIVEN)
        raise


def is_users_own(error: Exception) -> bool:
    """Whether an error is of what the user gave, such as a mask, or asked for."""
    return _GIVEN in getattr(error, "__notes__", ())


def shown(option: Any) -> Any:
    """An option as JSON holds it."""
    if option is None or isinstance(option, int):
        return option
    if isinstance(option, str):
        return valid_name(option)
    if isinstance(option, Mapping):
        return sorted(valid_name(str(name)) for name in option)
    if isinstance(option, Tensor):
        return "tensor"
    return (
        [valid_name(getattr(entry, "__name__", str(entry))) for entry in option]
        if isinstance(option, (list, tuple, set))
        else getattr(option, "__name__", "callable")
    )


def checked_model(model: Any) -> nn.Module:
    """The model to probe, if it is one."""
    if not isinstance(model, nn.Module):
        raise NormprobeError(f"Probe needs a torch.nn.Module, got {type(model).__name__}")
    return model


class Part(NamedTuple):
    """A probe's share of the data.

    Attributes:
        name: its name.
        known: the same, if another run of this process may go on with it; None where nobody else has it.
        seed: what the samples to keep are drawn by.
        share: how its examples are numbered.
    """

    name: str
    known: str | None
    seed: int
    share: DataShare


def read_part(part: str | None, out: object, seed: int, rank: Any, world_size: Any) -> Part:
    """The share of the data that options name; of a process of torch.distributed by its rank.

    Raises:
        NormprobeError: one of rank and world size is missing, or out of range.
    """
    dealt = _dealt(rank, world_size)
    process = process_name() if dealt is None else f"rank{dealt.rank}"
    # Parts that a user named count from 0 each, and keep other samples by their names.
    alone = part is not None and dealt is None
    share = DataShare(ALONE if alone else dealt)
    drawn = seed_of(seed, part if alone else None)
    if part is None and out is not None:  # windows on disk are gone on with by name
        part = process
    if part is not None:
        return Part(valid_name(part), part, drawn, share)
    # A uuid is drawn by the system: torch's and Python's generators are the user's.
    unique = str(uuid.uuid4())
    return Part(unique if process is None else f"{process}-{unique[:8]}", None, drawn, share)


def _dealt(rank: Any, world_size: Any) -> Deal | None:
    """How the user says that examples are dealt."""
    if rank is None and world_size is None:
        return None
    if rank is None or world_size is None:
        raise NormprobeError("rank and world_size go together: give both, or none of them")
    _check_whole("world_size", world_size, 1, "")
    _check_whole("rank", rank, 0, "")
    if rank >= world_size:
        raise NormprobeError(f"rank must be less than world_size, {world_size}, got {rank}")
    return Deal(rank, world_size)


def options_of_shard(shard: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a probe whose batches are one of several shards: its examples have their own numbers.

    Raises:
        NormprobeError: the shard is none, or the options number examples otherwise.
    """
    if shard is None:
        return options
    if not (isinstance(shard, (tuple, list)) and len(shard) == 2) or _dealt(*shard) is None:
        raise NormprobeError(f"shard must be (index, number of shards), such as (0, 4), got {shard!r}")
    if "rank" in options or "world_size" in options:
        raise NormprobeError("shard says which batches are run here: give no rank or world_size beside it")
    # A part of its own that is not hashed: by their numbers the samples of shards are others already.
    part = options.get("part") or f"shard{shard[0]}-{str(uuid.uuid4())[:8]}"
    return {**options, "part": part, "rank": 0, "world_size": 1}
