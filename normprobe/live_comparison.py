"""Two models side by side: exact errors of every layer, accumulated and local, without keeping tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from normprobe.capture.batches.batch_arguments import BatchArguments
from normprobe.capture.batches.progress_bar import Progress, counting
from normprobe.capture.batches.run_batches import NO_BATCHES, as_batches, run_batch
from normprobe.capture.live_pairs.side_by_side import Pair, SideBySide, differing_tensors
from normprobe.capture.live_pairs.stored_tensors import stored_tensors
from normprobe.comparison import Comparison
from normprobe.divergence.from_live_sums import live_differences, matched_layers
from normprobe.errors import NormprobeError, NoSamplesError
from normprobe.layers.find import find_layers
from normprobe.probe import record


def compare_live(a: nn.Module, b: nn.Module, batches: Any, *, progress: Progress = None) -> Comparison:
    """Run two models over the same batches and compare every row of every layer.

    >>> comparison = normprobe.compare_live(model, quantized, batches)
    >>> comparison.layers[["layer", "site", "error_db", "cosine", "introduced_db"]]

    Signal and noise power are summed in float64: `error_db` (the negative of SQNR) is that of the two as they
    run, what accumulated on the way included. At an output `introduced_db` is local: what the second model's
    layer makes of the first one's input, against the first one's output; `inherited_db` is the rest, what the
    layer makes of the difference of the inputs. Both are exact for any kind of layer. At an input, where the
    error comes from all that ran before, they are estimated, as the column `split` says. No tensor outlives
    its batch.

    Both run in evaluation mode and without gradients, from the same random numbers; modes and random state
    are as before afterwards. For the local error a layer's `forward` is called once more, without its hooks.

    Args:
        a: the first model, against which errors are measured.
        b: the second. Batches are moved to its device, and floating tensors of ``a``'s dtype to its dtype.
        batches: as `record` takes them.
        progress: True for a bar; or called with the number of batches done, after each.

    Returns:
        A comparison whose `error_of` is `all`. Layers that do not run on the first batch are not compared.

    Raises:
        NoLayersError: one of the models has no Linear or norm.
        NoSamplesError: there is no batch.
        NormprobeError: a batch is of no such form.
        RecordingError: no layer can be matched.
    """
    _check_models(a, b)
    # Batches may come from a generator: the first is needed here, and again in its turn.
    given = as_batches(batches, BatchArguments(a))
    every = iter(given)
    first = next(every, None)
    if first is None:
        raise NoSamplesError(NO_BATCHES)
    suited = _suited(a, b)
    with _undisturbed(a, b):
        # Only to learn which layers run, in which order: of the numbers next to nothing is kept.
        of_a = record(a, [first], samples=1, values=0).tables
        of_b = record(b, [suited(first)], samples=1, values=0).tables
        matched = matched_layers(of_a, of_b)
        layers = [{layer.name: layer for layer in find_layers(model).layers} for model in (a, b)]
        # What only its use in a function makes a layer has no module whose calls could be compared.
        called = [pair for pair in matched.pairs if pair.a in layers[0] and pair.b in layers[1]]
        side_by_side = SideBySide(a, [Pair(layers[0][pair.a], layers[1][pair.b]) for pair in called])
        stored = {pair.a: differing_tensors(layers[0][pair.a], layers[1][pair.b]) for pair in called}
        with counting(progress, given) as count:
            pairs = ((batch, suited(batch)) for batch in chain([first], every))
            _run_both(a, b, pairs, side_by_side, count)
    # Of the layers compared their tensors are compared exactly, above.
    rest = stored_tensors(a, {pair.a for pair in called}), stored_tensors(b, {pair.b for pair in called})
    sums, examples = side_by_side.found(), side_by_side.examples
    return Comparison(
        live_differences(of_a, of_b, matched, sums, examples=examples, tensors=stored, stored=rest)
    )


def _check_models(*models: Any) -> None:
    """Raise unless both are models.

    Raises:
        NormprobeError: one is none.
    """
    for model in models:
        if not isinstance(model, nn.Module):
            raise NormprobeError(
                f"compare_live takes two models, got {type(model).__name__}; compare takes recordings"
            )


def _run_both(
    a: nn.Module,
    b: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    side_by_side: SideBySide,
    count: Callable[[int], object],
) -> None:
    """Run each model over its own of each pair of batches, and add up what differs."""
    taken = BatchArguments(a), BatchArguments(b)
    for done, (of_a, of_b) in enumerate(batches, 1):
        # The second begins with the random numbers that the first began with.
        with _forked(a, b), side_by_side.keeping(of_a):
            run_batch(a, taken[0], of_a)
        with side_by_side.comparing():
            run_batch(b, taken[1], of_b)
        count(done)


@contextmanager
def _undisturbed(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; modes and random numbers as before afterwards."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for module, _ in modes:
            # Not eval(), which a model may override, and which does not tell what was in training mode.
            module.training = False
        with _forked(*models), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _forked(*models: nn.Module) -> Any:
    """Random numbers as before afterwards, on the devices of these models."""
    # Of these devices only: by default fork_rng initializes every one of the machine.
    cuda = {tensor.device for model in models for tensor in model.parameters() if tensor.is_cuda}
    return torch.random.fork_rng(list(cuda))


def _suited(a: nn.Module, b: nn.Module) -> Callable[[Any], Any]:
    """What makes a batch of the first model's one of the second's: its device, and its dtype."""
    of_a, of_b = (next((p for p in model.parameters() if p.is_floating_point()), None) for model in (a, b))

    def suit(value: Any) -> Any:
        if isinstance(value, Tensor) and of_a is not None and of_b is not None:
            # Token ids stay integers, and what the first model takes in another dtype the second does, too.
            return value.to(of_b.device, of_b.dtype if value.dtype == of_a.dtype else None)
        if isinstance(value, Mapping):
            return {name: suit(entry) for name, entry in value.items()}
        if isinstance(value, PackedSequence):
            return value._replace(data=suit(value.data))
        if isinstance(value, (tuple, list)):
            entries = [suit(entry) for entry in value]
            # A named tuple takes its fields apart.
            return type(value)(*entries) if hasattr(value, "_fields") else tuple(entries)
        return value

    return suit
