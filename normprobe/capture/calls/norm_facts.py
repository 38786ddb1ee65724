"""What the ledger says of a norm beside how it is read: its groups, activation and running statistics."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from normprobe.layers.module_attributes import attribute, groups_of
from normprobe.layers.norms.affine import tensors_named
from normprobe.layers.norms.identify import Identification
from normprobe.layers.view import View
from normprobe.vocabulary import NORM_KINDS


@dataclass(frozen=True)
class ShownByCall:
    """What the call that settled a layer showed beside how it is read; nothing of a layer known by its class.

    Attributes:
        statistics: of a batch norm, what it normalized with: ``batch`` or ``running``; "" where unknown.
        training: the mode of that call.
        groups: how many groups of features, each normalized together; None where unknown.
        activation: what its output went through, or "".
        eps: what it adds to the variance, where it does not say so.
    """

    statistics: str = ""
    training: bool = False
    groups: int | None = None
    activation: str = ""
    eps: float | None = None

    @staticmethod
    def of(identification: Identification, *, training: bool) -> ShownByCall:
        """What one call in this mode showed."""
        found = identification
        return ShownByCall(found.statistics, training, found.groups, found.activation, found.eps)


def norm_facts(
    module: nn.Module, view: View, shown: ShownByCall, modes: Iterable[str], *, moved: bool | None
) -> dict[str, Any]:
    """Columns of a layer's row in the ledger; of any other layer all are empty.

    Args:
        module: the layer.
        view: how it is read.
        shown: what its first call showed.
        modes: the modes it ran in, ``train`` or ``eval``.
        moved: whether its running statistics changed.
    """
    if view.kind not in NORM_KINDS:
        return {"groups": None, "activation": "", "momentum": None, "running_dtype": "", "statistics": ""} | {
            "processes": None,
            "num_batches_tracked": None,
        }
    running = next(tensors_named(module, "running_var"), None)
    # In train mode torch's own take the batch's, moved or not (a momentum of 0); others that do move theirs.
    frozen = moved is False and not isinstance(module, nn.modules.batchnorm._BatchNorm)
    momentum = attribute(module, "momentum")
    batch_norm = view.kind == "batch_norm"
    return {
        "groups": _groups(module, view, shown),
        "activation": shown.activation,
        "momentum": float(momentum) if running is not None and _is_number(momentum) else None,
        "running_dtype": "" if running is None else str(running.dtype).removeprefix("torch."),
        "statistics": "; ".join(_statistics(shown, modes, running is not None, frozen)) if batch_norm else "",
        "processes": _processes(module) if batch_norm else None,
        "num_batches_tracked": None if running is None else _batches_tracked(module),
    }


def _batches_tracked(module: nn.Module) -> int | None:
    """How many batches the running statistics have seen; None where the layer does not count them."""
    counted = attribute(module, "num_batches_tracked")
    if not isinstance(counted, torch.Tensor) or counted.numel() != 1 or counted.is_meta:
        return None
    # Read as the recording is taken, not in a hook: an accelerator is waited for here.
    try:
        number = float(counted)
    except Exception:  # a tensor class of a user's own
        return None
    return int(number) if 0 <= number < 2**63 else None


def _groups(module: nn.Module, view: View, shown: ShownByCall) -> int | None:
    """How many groups its features fall into: as its call showed, else as it says."""
    if view.kind in ("batch_norm", "instance_norm"):
        return None
    return shown.groups if shown.groups is not None else groups_of(module, view.kind)


def _statistics(shown: ShownByCall, modes: Iterable[str], has_running: bool, frozen: bool) -> list[str]:
    """What a batch norm normalized with in the modes it ran in, each once.

    The call that settled it says so for its mode. In the other mode, and where no call told, it is as usual:
    the batch in train mode, running statistics in evaluation mode, unless it is frozen.
    """
    found: dict[str, None] = {}
    for mode in modes:
        # A mode in which no call was looked at: custom classes follow torch's habit.
        known = shown.statistics if (mode == "train") is shown.training else ""
        found[known or ("running" if has_running and (mode == "eval" or frozen) else "batch")] = None
    return list(found)


def _processes(module: nn.Module) -> int | None:
    """How many processes a norm takes its batch statistics over; None where it does not say, and is alone."""
    if "sync" not in type(module).__name__.lower() and not isinstance(module, nn.SyncBatchNorm):
        return None
    group = attribute(module, "process_group")
    # Asked as the recording is taken: no collective call, which would wait for other processes.
    try:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_world_size(group)
    except Exception:  # a group of a user's own, or one that is gone
        return None
    return None


def is_trainable(module: nn.Module) -> bool | None:
    """Whether any parameter of a layer requires a gradient; None where it has none."""
    required = [parameter.requires_grad for parameter in module.parameters()]
    return any(required) if required else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
