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
_PICKLES = (".pt", ".pth", ".bin")


def check_new_weights(path: Path) -> Path:
    """Return ``path`` if weights can be written there.

    Raises:
        ModelError: There is something already, or no folder, or the ending is none of .safetensors, .pt,
            .pth and .bin.
    """
    if path.suffix.lower() not in (_SAFETENSORS, *_PICKLES):
        raise ModelError(
            f"{path} has none of the endings {', '.join((_SAFETENSORS, *_PICKLES))}, which say how weights "
            "are written; give it one"
        )
    if not path.parent.is_dir():
        raise ModelError(f"{path} cannot be written: there is no folder {path.parent}; make it first")
    if path.exists():
        raise ModelError(f"{path} exists, and weights are never written over others; give a new name")
    return path


def save_weights(model: nn.Module, path: Path) -> Path:
    """Write the state dict of a model to a file that does not exist yet.

    Args:
        model: The model.
        path: Ends in ``.safetensors``, or in ``.pt``, ``.pth`` or ``.bin`` for torch's own format. Either is
            read by ``--weights``.

    Raises:
        ModelError: As `check_new_weights`, or the file cannot be written.
    """
    check_new_weights(path)
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}

    def write(handle: IO[bytes]) -> None:
        if path.suffix.lower() == _SAFETENSORS:
            save_file(_apart(state), handle.name, metadata={"format": "pt"})
        else:
            torch.save(state, handle)

    try:
        replace_file(path, write)
    except (OSError, RuntimeError, SafetensorError) as cause:
        raise ModelError(f"{path} cannot be written: {cause}") from cause
    return path


def _apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that share no memory, as safetensors needs: tied weights are written twice."""
    met: set[int] = set()
    apart = {}
    for name, value in state.items():
        shared = value.untyped_storage().data_ptr() in met
        met.add(value.untyped_storage().data_ptr())
        apart[name] = value.clone() if shared else value.contiguous()
    return apart
