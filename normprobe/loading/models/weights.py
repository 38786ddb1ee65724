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

_NESTED = ("state_dict", "model_state_dict", "model")
"""Keys under which training loops save the state dict beside the optimizer's."""

_PREFIXES = ("module.", "_orig_mod.")
"""Of DataParallel and of torch.compile."""


def load_weights(module: nn.Module, file: str) -> None:
    """Load a safetensors file or a state dict into ``module``, strictly.

    Pickle files are read with ``weights_only=True``: an unpickler that knows tensors and containers only and
    refuses everything else, so no code of the file runs. A state dict below ``state_dict``,
    ``model_state_dict`` or ``model`` is taken, and ``module.`` or ``_orig_mod.`` before all names is dropped.

    Raises:
        ModelError: the file is missing, damaged, a pickled module, or does not fit the model.
    """
    state = _without_prefix(_unnested(_read(file), file))
    own = module.state_dict()
    wrong = [
        f"{name} has shape {tuple(state[name].shape)} in the file and {tuple(own[name].shape)} in the model"
        for name in own
        if name in state and isinstance(own[name], Tensor) and state[name].shape != own[name].shape
    ]
    missing = [f"{name} is missing in the file" for name in own if name not in state]
    extra = [f"{name} is not in the model" for name in state if name not in own]
    # Ahead of torch's own check, whose message is a paragraph of every name.
    problems = [*wrong, *missing, *extra]
    if problems:
        rest = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ModelError(f"{file} does not fit {type(module).__name__}: {'; '.join(problems[:3])}{rest}")
    module.load_state_dict(state)


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
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as cause:
        raise ModelError(
            f"{file} is not a plain state dict: it is damaged, or holds pickled objects, and loading those "
            "runs whatever code they hold; save model.state_dict() instead"
        ) from cause
    except Exception as cause:
        raise ModelError(f"{file} cannot be read, it may be damaged: {describe(cause)}") from cause


def _unnested(state: Any, file: str) -> dict[str, Tensor]:
    """The state dict in what a file holds, names to tensors.

    Raises:
        ModelError: there is none.
    """
    for key in _NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{file} holds a {type(state).__name__} that is no state dict (names to tensors)")
    return {str(name): value for name, value in state.items()}


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without a wrapper's prefix, if all names have it."""
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
