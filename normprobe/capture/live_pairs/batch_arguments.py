"""From a batch to the arguments of a model's forward: what it does not take, such as labels, is left out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from normprobe.errors import NormprobeError
from normprobe.layers.module_attributes import attribute

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_LABELS = frozenset({"label", "labels", "label_ids", "target", "targets", "y"})
"""Keys of what data sets hold beside the inputs."""


class BatchArguments:
    """Makes arguments of the batches of one model, as a loader for training gives them.

    Attributes:
        left_out: what of the batches the forward does not take, in a sentence; "" for nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        self.left_out = ""
        self._parameters = _parameters_of(model)

    def of(self, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and the keyword arguments that a batch stands for.

        Raises:
            NormprobeError: it is no tensor, tuple, list or mapping.
        """
        if isinstance(batch, Tensor):
            return (batch,), {}
        if isinstance(batch, Mapping):
            return (), self._known(batch)
        if isinstance(batch, (tuple, list)):
            return self._leading(batch)
        raise NormprobeError(
            "a batch is a tensor, a tuple or list of arguments, or a mapping of them; "
            f"got {type(batch).__name__}"
        )

    def _leading(self, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """As many of the items as the forward takes; of a mapping and labels the mapping."""
        if self._parameters is None:
            return tuple(batch), {}
        takes = [name for name, kind in self._parameters.items() if kind in _POSITIONAL]
        # (inputs by name, labels), as collate functions of tokenizers give it.
        first = batch[0] if len(batch) else None
        # Inputs by name, with labels behind them in a tuple.
        if isinstance(first, Mapping) and first and first.keys() <= self._parameters.keys():
            self._note(len(batch), 1)
            return (), dict(first)
        # Of a forward that takes any number nothing is left out: torch says if it does not fit.
        variadic = inspect.Parameter.VAR_POSITIONAL in self._parameters.values()
        if variadic or not takes or len(batch) <= len(takes):
            return tuple(batch), {}
        self._note(len(batch), len(takes))
        return tuple(batch[: len(takes)]), {}

    def _note(self, has: int, takes: int) -> None:
        if has > takes:
            what = "the last item is" if has - takes == 1 else f"the last {has - takes} items are"
            self.left_out = (
                f"of each batch of {has} items {what} left out, as labels are: "
                f"the forward takes {'one' if takes == 1 else takes}"
            )

    def _known(self, batch: Mapping[Any, Any]) -> dict[str, Any]:
        """The entries of a mapping, without labels that the forward has no argument for."""
        parameters = self._parameters
        if parameters is None or inspect.Parameter.VAR_KEYWORD in parameters.values():
            return dict(batch)
        # Labels alone: a misspelt argument is to raise, as it does without a probe.
        unknown = [str(name) for name in batch if name in _LABELS and name not in parameters]
        # Not of a batch of nothing else: then the forward says itself what it wants.
        if unknown and len(unknown) < len(batch):
            self.left_out = f"of each batch {', '.join(unknown)} left out: the forward has no such argument"
            return {name: value for name, value in batch.items() if name not in unknown}
        return dict(batch)


def _parameters_of(model: nn.Module) -> dict[str, Any] | None:
    """The parameters of a model's forward and their kinds; None if Python cannot say."""
    found = None
    for module in _within(model):
        try:
            signature = inspect.signature(module.forward)
        except (TypeError, ValueError):
            return None
        found = {name: parameter.kind for name, parameter in signature.parameters.items()}
        # A wrapper takes anything and hands it on: the module within says what is taken.
        if inspect.Parameter.VAR_POSITIONAL not in found.values():
            break
    return found


def _within(model: nn.Module) -> Iterator[nn.Module]:
    """A model and what it wraps: compiled, parallel and averaged models hand on whatever they are given."""
    module: Any = model
    while isinstance(module, nn.Module):
        yield module
        children = module._modules
        # An only child: beside others `module` is the name of some part, and no wrapper's.
        module = attribute(module, "_orig_mod") or (children.get("module") if len(children) == 1 else None)
