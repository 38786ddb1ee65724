"""Weights from a file into a model that the user's own code built."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normprobe.errors import ModelError
from normprobe.loading.models.import_path import describe
from normprobe.loading.models.state_dicts import find_state, foreign_prefix


def load_weights(module: nn.Module, file: str) -> tuple[str, ...]:
    """Load a safetensors file or a state dict into ``module``, strictly.

    Pickle files are read with ``weights_only=True``: an unpickler that knows tensors and containers only and
    refuses everything else, so no code of the file runs. Training saves more than the weights: the state dict
    may lie below a key (``state_dict``, ``model``, ...), all its names may begin with what a wrapper puts
    before them (``module.``, ``model.``, ``student.``, ...), and counts may stand beside them.

    Returns:
        What was taken off the names or left aside, a sentence at most.

    Raises:
        ModelError: the file is missing, damaged, a pickled module, or does not fit the model.
    """
    content, own = _read(file), module.state_dict()
    found = find_state(content, own)
    if found is None:
        raise ModelError(f"{file} holds a {type(content).__name__} that is no state dict (names to tensors)")
    _check_fits(module, own, found.state, file)
    module.load_state_dict(found.state)
    return (f"{file}: {'; '.join(found.said)}",) if found.said else ()


def _check_fits(module: nn.Module, own: Mapping[str, Any], state: Mapping[str, Tensor], file: str) -> None:
    """Check names and shapes, ahead of torch, whose message is a paragraph of every name.

    Raises:
        ModelError: they do not fit.
    """
    wrong = [
        f"{name} has shape {tuple(state[name].shape)} in the file and {tuple(own[name].shape)} in the model"
        for name in own
        if name in state and isinstance(own[name], Tensor) and state[name].shape != own[name].shape
    ]
    missing = [f"{name} is missing in the file" for name in own if name not in state]
    extra = [f"{name} is not in the model" for name in state if name not in own]
    # Shapes first: under right names they say most of what is wrong.
    problems = [*wrong, *missing, *extra]
    if problems:
        rest = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        prefix = foreign_prefix(state, own)
        hint = f"; all names in the file begin with {prefix}, none in the model: is it part of another one?"
        named = f"{'; '.join(problems[:3])}{rest}{hint if prefix else ''}"
        raise ModelError(f"{file} does not fit {type(module).__name__}: {named}")


def _read(file: str) -> Any:
    """What a weights file holds.

    Raises:
        ModelError: it is missing, damaged, or holds pickled objects.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ModelError(f"--weights {file} is not a file; a safetensors file or a state dict was needed")
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # To the CPU: what was saved on a card may be loaded where there is none.
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as cause:
        raise ModelError(
            f"{file} is not a plain state dict: it is damaged, or holds pickled objects, and loading those "
            "runs whatever code they hold; save model.state_dict() instead"
        ) from cause
    except Exception as cause:
        raise ModelError(f"{file} cannot be read, it may be damaged: {describe(cause)}") from cause
