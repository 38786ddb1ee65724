"""A model run over batches: what it is called with, in which modes, and what is as before afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from normprobe.capture.batches.batch_arguments import BatchArguments
from normprobe.capture.batches.progress_bar import Progress, counting
from normprobe.errors import NormprobeError, NoSamplesError, warn
from normprobe.layers.module_attributes import is_lazy

NO_BATCHES = (
    "there are no batches, so nothing is run; a generator gives its batches once: make it anew, "
    "or give a list or a DataLoader"
)
_SINGLE_VALUE = "more than 1 value per channel"


class BatchShare(NamedTuple):
    """Which batches are run here: each ``size``-th, from the ``rank``-th on.

    Attributes:
        rank: number of the first.
        size: how many such shares there are.
        pass_over: called with the arguments of a batch of another share, in the order of the batches.
    """

    rank: int
    size: int
    pass_over: Callable[[tuple[Any, ...], dict[str, Any]], None]


def run_batches(
    model: nn.Module, batches: Any, progress: Progress = None, share: BatchShare | None = None
) -> str:
    """Call a model on each batch, as `record` takes them, in whatever modes it is.

    Args:
        model: the model.
        batches: an iterable of batches, or a single one.
        progress: True for a bar, or called with the number of batches done, after each.
        share: which of the batches are run, where others are run elsewhere.

    Returns:
        What of the batches was left out, since the forward does not take it, in a sentence; "" for nothing.

    Raises:
        NormprobeError: a batch is not of a form that `record` takes, or the forward does not take it.
        NoSamplesError: there is no batch.
    """
    arguments, done = BatchArguments(model), 0
    every = as_batches(batches, arguments)
    with counting(progress, every) as count:
        for done, batch in enumerate(every, 1):
            if share is None or (done - 1) % share.size == share.rank:
                run_batch(model, arguments, batch)
            else:
                share.pass_over(*arguments.of(batch))
            count(done)
    if not done:
        raise NoSamplesError(NO_BATCHES)
    if arguments.is_doubtful:
        warn(arguments.left_out)
    return arguments.left_out


def run_batch(model: nn.Module, arguments: BatchArguments, batch: Any) -> None:
    """Call a model on one batch.

    Raises:
        NormprobeError: it is not of a form that `record` takes, or the forward does not take it.
    """
    args, kwargs = arguments.of(batch)
    try:
        model(*args, **kwargs)
    except TypeError as cause:
        # Only now: a hook of others may give what is missing.
        explained = arguments.explained(args, kwargs)
        if explained is None:
            raise
        raise explained from cause


def as_batches(batches: Any, arguments: BatchArguments) -> Iterable[Any]:
    """The batches to iterate over; a single tensor or mapping is one, and a tuple that can be nothing else.

    Args:
        batches: as the user gave them.
        arguments: of the model that is run.

    Raises:
        NormprobeError: there is nothing to iterate over.
    """
    if isinstance(batches, (Tensor, Mapping, PackedSequence)) or arguments.is_batch(batches):
        return [batches]
    # `iter` also takes what has items alone, as data sets are.
    iterable = isinstance(batches, Iterable) or hasattr(batches, "__getitem__")
    if isinstance(batches, (str, bytes)) or not iterable:
        raise NormprobeError(
            "batches are an iterable of tensors, tuples or mappings, such as a DataLoader or a list, or one "
            f"tensor or mapping; got {type(batches).__name__}"
        )
    return batches  # type: ignore[no-any-return]


@contextmanager
def in_modes(model: Any, training: Callable[[nn.Module], bool], *, restore: bool = False) -> Iterator[None]:
    """Run a block with each module in the mode asked for, without gradients; put the modes back afterwards.

    Args:
        model: the model; what is none is left alone, for the block to refuse.
        training: whether a module is to be in training mode.
        restore: also put back every buffer and the random numbers, which training mode changes.
    """
    # Not train(), which a model may override, and which does not tell what parts were in which mode.
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    buffers = [_held(module) for module, _ in modes] if restore else []
    # Only devices that the model is on: fork_rng would else initialize all of them.
    cards = (
        sorted({tensor.get_device() for tensor in model.parameters() if tensor.is_cuda}) if restore else []
    )
    try:
        for module, _ in modes:
            module.training = training(module)
        # Not inference_mode: its tensors have no version, by which one is measured once for all its readers.
        with torch.no_grad(), torch.random.fork_rng(cards, enabled=restore):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for (module, _), held in zip(modes, buffers, strict=False):
            _put_back(module, held)


def _held(module: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """The buffers of a module by name, each with a copy."""
    return {
        name: (buffer, buffer.clone())
        for name, buffer in module._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    }


def _put_back(module: nn.Module, held: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Put the buffers of a module back as they were, each in the tensor that it was in."""
    with torch.no_grad():
        for name, (buffer, value) in held.items():
            # A forward may have put another tensor in its place.
            module._buffers[name] = buffer
            # Copying raises the version, and autograd refuses a backward through what was saved before.
            if not torch.equal(buffer, value):
                buffer.copy_(value)


@contextmanager
def single_values_explained() -> Iterator[None]:
    """Say what to do where a batch norm in train mode reads one value per channel, which torch refuses."""
    try:
        yield
    except ValueError as cause:
        if _SINGLE_VALUE not in str(cause):
            raise
        raise NormprobeError(
            f"a BatchNorm read a single value per channel ({cause}); use batches of more examples"
        ) from cause
