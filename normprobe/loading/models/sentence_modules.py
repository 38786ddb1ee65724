"""What a sentence-transformers folder holds behind its transformer: pooling, Dense and norm layers.

`modules.json` lists the modules and their folders. Those that have layers to measure are built from their own
config and weights, without code of the checkpoint; what is not known here is left out, with a note.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normprobe.errors import ModelError
from normprobe.loading.models.import_path import describe
from normprobe.loading.models.state_dicts import fit

Features = dict[str, Tensor]
Find = Callable[[str], Path | None]
"""The path of a file of the checkpoint by its name in it; None if there is none."""

_TOKENS, _SENTENCE, _MASK = "token_embeddings", "sentence_embedding", "attention_mask"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_OF_OLD = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def _mean(tokens: Tensor, mask: Tensor) -> Tensor:
    return (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9)


def _weighted_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    return _mean(tokens, mask * mask.cumsum(1))


def _at_ends(tokens: Tensor, mask: Tensor, *, last: bool) -> Tensor:
    """The first or the last real token of each text."""
    # Not the last place: texts may be padded on either side.
    real = mask[..., 0]
    at = real.shape[1] - 1 - real.flip(1).argmax(1) if last else real.argmax(1)
    return tokens[torch.arange(len(tokens), device=tokens.device), at]


_POOLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": functools.partial(_at_ends, last=False),
    "lasttoken": functools.partial(_at_ends, last=True),
    "max": lambda tokens, mask: tokens.masked_fill(mask == 0, -torch.inf).amax(1),
    "mean": _mean,
    "mean_sqrt_len_tokens": lambda tokens, mask: (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9).sqrt(),
    "weightedmean": _weighted_mean,
}


class Pooling(nn.Module):
    """One vector of a text from those of its real tokens; several ways side by side."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        modes = config.get("pooling_mode") or [mode for name, mode in _OF_OLD.items() if config.get(name)]
        self.modes: list[str] = [modes] if isinstance(modes, str) else list(modes or ["mean"])
        if not set(self.modes) <= _POOLS.keys():
            raise ValueError(f"pooling {', '.join(self.modes)}")

    def forward(self, features: Features) -> Features:
        """Add the sentence's vector to the features."""
        tokens = features[_TOKENS]
        mask = features[_MASK][..., None].to(tokens.dtype)
        return {**features, _SENTENCE: torch.cat([_POOLS[mode](tokens, mask) for mode in self.modes], 1)}


class Dense(nn.Module):
    """A Linear and its activation."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        sizes = int(config["in_features"]), int(config["out_features"])
        self.linear = nn.Linear(*sizes, bias=bool(config.get("bias", True)))
        self.activation = _activation(str(config.get("activation_function") or "torch.nn.Identity"))
        self.reads = str(config.get("module_input_name") or _SENTENCE)
        self.writes = str(config.get("module_output_name") or self.reads)
        self.residual: nn.Module | None = None
        if config.get("use_residual"):
            self.residual = nn.Identity() if sizes[0] == sizes[1] else nn.Linear(*sizes, bias=False)

    def forward(self, features: Features) -> Features:
        """Replace, or add, one of the features."""
        values = features[self.reads]
        out = self.activation(self.linear(values))
        return {**features, self.writes: out if self.residual is None else out + self.residual(values)}


class LayerNorm(nn.Module):
    """A LayerNorm of the sentence's vector."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(int(config["dimension"]))

    def forward(self, features: Features) -> Features:
        """Replace the sentence's vector."""
        return {**features, _SENTENCE: self.norm(features[_SENTENCE])}


class Unit(nn.Module):
    """The sentence's vector at length 1."""

    def forward(self, features: Features) -> Features:
        """Replace the sentence's vector."""
        return {**features, _SENTENCE: nn.functional.normalize(features[_SENTENCE], dim=1)}


class Unchanged(nn.Module):
    """What does nothing in evaluation mode."""

    def forward(self, features: Features) -> Features:
        """The features as they are."""
        return features


_KNOWN: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "Pooling": Pooling,
    "Dense": Dense,
    "LayerNorm": LayerNorm,
    "Normalize": lambda config: Unit(),
    "Dropout": lambda config: Unchanged(),
}


class SentenceModel(nn.Module):
    """A transformer and the modules behind it, each under its number in modules.json.

    Attributes:
        config: the transformer's.
        main_input_name: the transformer's.
    """

    def __init__(self, transformer: nn.Module, steps: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.config = transformer.config
        self.main_input_name = getattr(transformer, "main_input_name", "input_ids")
        self.add_module("0", transformer)
        for number, step in steps.items():
            self.add_module(number, step)

    def get_input_embeddings(self) -> Any:
        """The transformer's embedding."""
        transformer: Any = self._modules["0"]
        return transformer.get_input_embeddings()

    def forward(self, *args: Any, **kwargs: Any) -> Features:
        """Run the transformer on its arguments, then the modules in turn; the features that result."""
        transformer, *steps = self._modules.values()
        given: Any = transformer(*args, **kwargs)  # type: ignore[misc]
        tokens = given["last_hidden_state"]
        # Without a mask every token is real.
        ones = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
        mask = kwargs.get(_MASK)
        features = {_TOKENS: tokens, _MASK: ones if mask is None else mask}
        for step in steps:
            features = step(features)  # type: ignore[misc]
        return features


def with_sentence_modules(transformer: nn.Module, find: Find) -> tuple[nn.Module, tuple[str, ...]]:
    """A transformer with the modules that `modules.json` lists behind it, and what is to be said of them.

    Without layers in these, or without the file, it is the transformer itself.

    Args:
        transformer: gives ``last_hidden_state``.
        find: finds the checkpoint's files.

    Raises:
        ModelError: a module's weights are missing, damaged or do not fit.
    """
    listed = _read(find, "modules.json")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    # The first entry is the transformer itself.
    if len(entries) < 2:
        return transformer, ()
    steps: dict[str, nn.Module] = {}
    said = []
    for number, entry in enumerate(entries[1:], 1):
        step, why = _step(entry, find)
        if step is None:
            rest = [str(other.get("path") or other.get("type")) for other in entries[number:]]
            # All that follow, too: they would read what is not computed.
            said.append(f"{', '.join(rest)} of modules.json left out: {why}")
            break
        steps[str(number)] = step
    return _joined(transformer, steps), (*said, *_about_pooler(transformer, steps))


def _joined(transformer: nn.Module, steps: Mapping[str, nn.Module]) -> nn.Module:
    # Without layers of their own there is nothing to measure in them.
    if not any(step.state_dict() for step in steps.values()):
        return transformer
    # A head of the checkpoint's own is not what these modules read.
    transformer = getattr(transformer, "base_model", transformer)
    dtype = next((p.dtype for p in transformer.parameters() if p.is_floating_point()), torch.float32)
    for step in steps.values():
        step.to(dtype)

    # The arguments are the transformer's: masks and texts are given by their names.
    def forward(self: SentenceModel, *args: Any, **kwargs: Any) -> Features:
        return SentenceModel.forward(self, *args, **kwargs)

    forward.__signature__ = inspect.signature(type(transformer).forward)  # type: ignore[attr-defined]
    # A class of its own, since a signature is read from the class, and each transformer has another.
    made: nn.Module = type(SentenceModel.__name__, (SentenceModel,), {"forward": forward})(transformer, steps)
    return made


def _step(entry: Mapping[str, Any], find: Find) -> tuple[nn.Module | None, str]:
    """A module of the list, with its weights; or None, and why it is not built.

    Raises:
        ModelError: its weights are missing, damaged or do not fit.
    """
    name, folder = str(entry.get("type", "")).rpartition(".")[2], str(entry.get("path", ""))
    if name not in _KNOWN:
        return None, f"{name or 'a module without a type'} is not a module that is built here"
    config = _read(find, f"{folder}/config.json")
    try:
        step = _KNOWN[name](config if isinstance(config, dict) else {})
    except (KeyError, TypeError, ValueError) as cause:
        return None, f"its config.json does not say how to build it ({describe(cause)})"
    own = step.state_dict()
    if own:
        path = next(filter(None, (find(f"{folder}/{file}") for file in _WEIGHTS)), None)
        if path is None:
            raise ModelError(f"{folder} has no weights ({' or '.join(_WEIGHTS)}), and modules.json lists it")
        state = fit(_weights(path), list(own)).state
        # Ahead of torch, whose message lists every name.
        if {key: value.shape for key, value in state.items()} != {k: v.shape for k, v in own.items()}:
            raise ModelError(f"{path} does not fit the {name} that its config.json describes")
        step.load_state_dict(state)
    return step, ""


def _weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file; no code of it runs.

    Raises:
        ModelError: it cannot be read.
    """
    from safetensors.torch import load_file

    try:
        loaded: Any = (
            load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        )
    except Exception as cause:
        raise ModelError(f"{path} cannot be read, it may be damaged: {describe(cause)}") from cause
    return {str(name): value for name, value in dict(loaded).items() if isinstance(value, Tensor)}


def _activation(name: str) -> nn.Module:
    """An activation of torch's by its path.

    Raises:
        ValueError: it is none.
    """
    # By name among torch's own: nothing that a config names is imported.
    cls = getattr(nn, name.rpartition(".")[2], None) if name.startswith("torch.nn.") else None
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ValueError(f"activation {name}")
    made: nn.Module = cls()
    return made


def _read(find: Find, name: str) -> Any:
    """What a JSON file of the checkpoint holds, or None."""
    path = find(name)
    try:
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _about_pooler(transformer: nn.Module, steps: Mapping[str, nn.Module]) -> Sequence[str]:
    """That the transformer's own pooler runs although nothing reads it, where that is so."""
    pools = any(isinstance(step, Pooling) for step in steps.values())
    if not pools or not isinstance(getattr(transformer, "pooler", None), nn.Module):
        return ()
    return ("pooler runs, but its output is not used: the Pooling of modules.json reads the tokens",)
