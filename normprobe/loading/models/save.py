"""A model's weights as a new file, never over an old one."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from normprobe.errors import ModelError
from normprobe.tables.atomic_files import replace_file

_SAFETENSORS = ".safetensors"
_TORCH = (".pt", ".pth", ".bin")


def check_new_weights(path: Path) -> None:
    """Check that weights can be written to ``path``.

    Raises:
        ModelError: there is something already, or no folder, or the ending is none of .safetensors, .pt,
            .pth and .bin.
    """
    if path.suffix.lower() not in (_SAFETENSORS, *_TORCH):
        raise ModelError(
            f"{path} has none of the endings {', '.join((_SAFETENSORS, *_TORCH))}, which say how weights "
            "are written; give it one"
        )
    if not path.parent.is_dir():
        raise ModelError(f"{path} cannot be written: there is no folder {path.parent}; make it first")
    if path.exists():
        raise ModelError(f"{path} exists, and weights are never written over others; give a new name")


def save_weights(model: nn.Module, path: Path) -> Path:
    """Write the state dict of a model to a file that does not exist yet.

    Args:
        model: the model.
        path: ends in ``.safetensors``, or in ``.pt``, ``.pth`` or ``.bin`` for torch's own format. Either is
            read by ``--weights``.

    Raises:
        ModelError: as `check_new_weights`, or the file cannot be written.
    """
    check_new_weights(path)
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}

    def write(handle: IO[bytes]) -> None:
        if path.suffix.lower() == _SAFETENSORS:
            # "pt" is what transformers' own files say, and some of its readers ask for.
            save_file(_without_shared_memory(state), handle.name, metadata={"format": "pt"})
        else:
            torch.save(state, handle)

    try:
        replace_file(path, write)
    except (OSError, RuntimeError, SafetensorError) as cause:
        raise ModelError(f"{path} cannot be written: {cause}") from cause
    return path


def _without_shared_memory(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without shared memory, as safetensors needs: tied weights are written twice."""
    storages: set[int] = set()
    own = {}
    for name, value in state.items():
        storage = value.untyped_storage().data_ptr()
        # By storage: views of one tensor differ in their own address.
        own[name] = value.clone() if storage in storages else value.contiguous()
        storages.add(storage)
    return own
