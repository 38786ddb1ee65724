"""Faults to inject into healthy models: what is changed, and which check must name which layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.findings.models_fitted import cancer


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        check: The check that must report it.
        model: The healthy model it is put into.
        layers: The layers any of which it may be reported at, or as written by.
        change: Changes a copy of the model in place; may return other batches.
        what: A few words.
        mode: ``eval``, ``train`` (with gradients) or ``as_is`` (modes as ``change`` left them).
    """

    check: str
    model: str
    layers: tuple[str, ...]
    change: Callable[[nn.Module, list[Any]], list[Any] | None]
    what: str
    mode: str = "eval"


def scaled(name: str, factor: float) -> Callable[[nn.Module, list[Any]], None]:
    """Multiply a tensor of the model, named as in its state dict."""

    def change(model: nn.Module, batches: list[Any]) -> None:
        model.state_dict()[name].mul_(factor)

    return change


def scaled_row(name: str, row: int, factor: float) -> Callable[[nn.Module, list[Any]], None]:
    """Multiply one row of a tensor of the model."""

    def change(model: nn.Module, batches: list[Any]) -> None:
        model.state_dict()[name][row] *= factor

    return change


def set_to(name: str, value: float, where: Any = slice(None)) -> Callable[[nn.Module, list[Any]], None]:
    """Set (part of) a tensor of the model."""

    def change(model: nn.Module, batches: list[Any]) -> None:
        model.state_dict()[name][where] = value

    return change


def added(name: str, value: float, where: Any = slice(None)) -> Callable[[nn.Module, list[Any]], None]:
    """Add to (part of) a tensor of the model."""

    def change(model: nn.Module, batches: list[Any]) -> None:
        model.state_dict()[name][where] += value

    return change


def moved(name: str, deviations: float) -> Callable[[nn.Module, list[Any]], None]:
    """Move a BatchNorm's running mean by so many running standard deviations."""

    def change(model: nn.Module, batches: list[Any]) -> None:
        norm = model.get_submodule(name)
        norm.running_mean += deviations * norm.running_var.sqrt()  # type: ignore[operator, union-attr]

    return change


def spliced(name: str, channel: int) -> Callable[[nn.Module, list[Any]], None]:
    """Give a channel of a BatchNorm the running mean of the one whose mean lies farthest from its own."""

    def change(model: nn.Module, batches: list[Any]) -> None:
        mean = model.state_dict()[f"{name}.running_mean"]
        mean[channel] = mean[(mean - mean[channel]).abs().argmax()]

    return change


def reset(*names: str) -> Callable[[nn.Module, list[Any]], None]:
    """Reset the running statistics of some batch norms, or of all."""

    def change(model: nn.Module, batches: list[Any]) -> None:
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and (not names or name in names):
                module.reset_running_stats()

    return change


def data(function: Callable[[Any], Any]) -> Callable[[nn.Module, list[Any]], list[Any]]:
    """Change every batch."""
    return lambda model, batches: [function(batch) for batch in batches]


def wild(factor: float) -> Callable[[nn.Module, list[Any]], list[Any]]:
    """Multiply one example of the first batch."""

    def change(model: nn.Module, batches: list[Any]) -> list[Any]:
        first = batches[0].clone()
        first[3] *= factor
        return [first, *batches[1:]]

    return change


def training(name: str) -> Callable[[nn.Module, list[Any]], None]:
    """Put one module into train mode."""

    def change(model: nn.Module, batches: list[Any]) -> None:
        model.get_submodule(name).train()

    return change


def all_linear(factor: float) -> Callable[[nn.Module, list[Any]], None]:
    """Multiply the weights of every Linear."""

    def change(model: nn.Module, batches: list[Any]) -> None:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.data *= factor

    return change


def spike(name: str, value: float) -> Callable[[nn.Module, list[Any]], None]:
    """Write a value into feature 3 of the first position of the first example of a layer's output."""

    class Spiky(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            output = super().forward(x).clone()
            output[0, 0, 3] = value
            return output

    def change(model: nn.Module, batches: list[Any]) -> None:
        model.get_submodule(name).__class__ = Spiky

    return change


def eps(name: str, value: float) -> Callable[[nn.Module, list[Any]], None]:
    """Set the eps of a norm."""

    def change(model: nn.Module, batches: list[Any]) -> None:
        norm = model.get_submodule(name)
        setattr(norm, "variance_epsilon" if hasattr(norm, "variance_epsilon") else "eps", value)

    return change


def logarithm(name: str) -> Callable[[nn.Module, list[Any]], None]:
    """Take the logarithm of what a module writes, as code between two layers would."""

    def change(model: nn.Module, batches: list[Any]) -> None:
        model.get_submodule(name).register_forward_hook(lambda module, args, output: output.log())

    return change


def unmasked(batch: Any) -> Any:
    return {name: value for name, value in batch.items() if name != "attention_mask"}


def masked(batch: Any) -> Any:
    """Put padding at the end of every example, with a mask that says so."""
    mask = batch["attention_mask"].clone()
    mask[:, 6:] = 0
    return {"input_ids": batch["input_ids"].masked_fill(mask == 0, 1), "attention_mask": mask}


def padded(batch: Any) -> Any:
    ids = batch["input_ids"].clone()
    for row in range(len(ids)):
        ids[row, 6 + row :] = 1
    return {"input_ids": ids}


def small(rows: int) -> Callable[[nn.Module, list[Any]], list[Any]]:
    """Cut the first batch into batches of so many examples."""
    return lambda model, batches: list(batches[0][:32].split(rows))


def half(width: int) -> slice:
    return slice(0, width * 6 // 10)


def raw_cancer(model: nn.Module, batches: list[Any]) -> list[Any]:
    return list(cancer(False)[0][:512].split(128))


def scattered(batch: Tensor) -> Tensor:
    return batch * 10 ** torch.linspace(-3, 3, batch.shape[1])
