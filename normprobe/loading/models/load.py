"""Which kind of model a name on the command line means, and the model it leads to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from normprobe.errors import ModelError
from normprobe.loading.constants import DTYPES, PICKLE_SUFFIXES
from normprobe.loading.models import checkpoint
from normprobe.loading.models.import_path import call_user_code, describe, import_object, is_import_path
from normprobe.loading.models.weights import load_weights


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, and where its tokenizer or processor is found.

    Attributes:
        module: the model.
        name: what to call it in headings, such as ``"./smollm2"``.
        source: folder or hub id that holds tokenizer and processor, or None.
        gguf: name of the GGUF file inside ``source``, or None.
        config: the transformers config, or None for a model of the user's own.
        device: where its inputs belong.
        trust_remote_code: whether code of the checkpoint may run.
        warnings: what the user should know, a sentence each.
    """

    module: nn.Module = field(repr=False)
    name: str
    source: str | None
    gguf: str | None
    config: Any = field(repr=False)
    device: torch.device
    trust_remote_code: bool
    warnings: tuple[str, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """The type of the first floating-point parameter or buffer; float32 without any."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)


def load_model(
    spec: str,
    *,
    weights: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a model and put it into evaluation mode.

    Args:
        spec: a Hugging Face folder, hub id or ``.gguf`` file; or ``module.py:callable`` or
            ``package.module:callable``, which is an ``nn.Module`` or returns one.
        weights: safetensors file or state dict (read with ``weights_only=True``) for a callable's model.
        dtype: ``"auto"`` (as stored), ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"float64"``.
        device: ``"auto"`` (cuda where there is one, else cpu) or a name torch knows, such as ``"cuda:1"``.
        trust_remote_code: allow Python code that comes with a checkpoint to run.

    Raises:
        ModelError: there is no such model, or it cannot be loaded.
    """
    target = _device(device)
    # Both checked before anything is loaded: a misspelt option is not to cost minutes.
    wanted = _dtype(dtype)
    # A folder may have a colon in its name.
    if is_import_path(spec) and not Path(spec).exists():
        loaded = _from_callable(spec, weights)
    else:
        if weights is not None:
            raise ModelError(_weights_refusal(spec, weights))
        loaded = _from_disk_or_hub(spec, "auto" if wanted is None else wanted, trust_remote_code)
    # In training mode dropout is random, and a BatchNorm's running statistics would move with each batch.
    module = loaded.module.eval()
    try:
        module = module.to(target) if wanted is None else module.to(target, wanted)
    except (RuntimeError, NotImplementedError, torch.OutOfMemoryError) as cause:
        raise ModelError(
            f"{spec} cannot be put on {target}: {describe(cause)}; try --device cpu or a smaller --dtype"
        ) from cause
    return LoadedModel(
        module,
        loaded.name,
        loaded.source,
        loaded.gguf,
        loaded.config,
        target,
        trust_remote_code,
        loaded.warnings,
    )


def _device(name: str) -> torch.device:
    """The device of this name, tried with an empty tensor.

    Raises:
        ModelError: torch does not know it, or it cannot be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)  # a device may have a name and no driver
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as cause:
        raise ModelError(
            f"--device {name} cannot be used here: {describe(cause)}; try --device cpu"
        ) from cause
    if device.type == "meta":
        raise ModelError("--device meta holds no numbers, so there is nothing to measure; try --device cpu")
    return device


def _dtype(name: str) -> torch.dtype | None:
    """The dtype of this name; None for ``auto``.

    Raises:
        ModelError: it is not one of `DTYPES`.
    """
    if name not in DTYPES:
        raise ModelError(f"--dtype {name} is not one of {', '.join(DTYPES)}")
    return None if name == "auto" else getattr(torch, name)


def _from_disk_or_hub(spec: str, dtype: Any, trust: bool) -> checkpoint.Checkpoint:
    """Load a folder, a hub id or a GGUF file.

    Raises:
        ModelError: there is no such model, or it cannot be loaded.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        return checkpoint.from_folder(path, spec, dtype, trust)
    if path.suffix.lower() == ".gguf":
        return checkpoint.from_gguf(path, spec, dtype)
    if path.is_file():
        raise ModelError(_file_refusal(path, spec))
    if checkpoint.is_hub_id(spec):
        return checkpoint.from_hub(spec, dtype, trust)
    raise ModelError(
        f"{spec} does not exist; MODEL is a Hugging Face folder, a hub id, a .gguf file or module.py:callable"
    )


def _weights_refusal(spec: str, weights: str) -> str:
    """Why weights do not go with what is no callable: it has its own, or is no model."""
    path = Path(spec).expanduser()
    if path.is_file() and path.suffix.lower() != ".gguf":
        return _file_refusal(path, spec)
    return f"--weights {weights} goes with module.py:callable; {spec} has weights of its own"


def _file_refusal(path: Path, spec: str) -> str:
    """Why a file is no model, and what to give instead."""
    suffix = path.suffix.lower()
    if suffix in PICKLE_SUFFIXES:
        return (
            f"{spec} is a pickle file: loading a pickled module runs whatever code it holds, and a state "
            f"dict has no architecture; give module.py:callable that builds the model, and --weights {spec}"
        )
    if suffix == ".safetensors":
        return (
            f"{spec} holds weights without an architecture; give the folder with its config.json, "
            f"or module.py:callable that builds the model, and --weights {spec}"
        )
    if suffix == ".py":
        return f"{spec} is a Python file; say which callable of it builds the model: {spec}:callable"
    return f"{spec} is no model; MODEL is a Hugging Face folder, a .gguf file or module.py:callable"


def _from_callable(spec: str, weights: str | None) -> checkpoint.Checkpoint:
    """Call the user's factory (or take the user's model) and load its weights.

    Raises:
        ModelError: it cannot be imported, raises, returns no model, or the weights do not fit.
    """
    made = import_object(spec, ModelError)
    if not isinstance(made, nn.Module):
        if not callable(made):
            raise ModelError(f"{spec} is a {type(made).__name__}, not a callable that returns an nn.Module")
        with call_user_code(spec, ModelError):
            made = made()
    if not isinstance(made, nn.Module):
        raise ModelError(f"{spec} returned a {type(made).__name__}; an nn.Module was needed")
    warnings = load_weights(made, weights) if weights is not None else ()
    # A transformers model that the user's code loaded from a folder has its tokenizer there.
    config = getattr(made, "config", None)
    origin = getattr(config, "name_or_path", "") if hasattr(config, "to_dict") else ""
    source = origin if isinstance(origin, str) and Path(origin).is_dir() and origin else None
    config = config if _is_transformers(made) else None
    return checkpoint.Checkpoint(made, spec, source, None, config, warnings)


def _is_transformers(module: nn.Module) -> bool:
    """Whether a model is one of transformers', by the attribute that names its main input."""
    return isinstance(getattr(type(module), "main_input_name", None), str)
