"""One model of a library, with a call of it."""

from __future__ import annotations

import copy
import importlib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Call = Callable[[nn.Module], Any]


@dataclass(frozen=True)
class Entry:
    """A model and a call of it.

    Attributes:
        name: of the model, unique in its library.
        make: builds it.
        call: calls it, with the same inputs each time.
        real: from a glob over names of layers to which positions are real, shape (batch, positions), None for
            all: the mask of the first that matches, for tensors that lead with these sizes. By the model's
            own semantics, read off its source.
        train: in training mode.
        more: layers that are no submodules for torch, by the names that the ledger has for them.
    """

    name: str
    make: Callable[[], nn.Module]
    call: Call
    real: Mapping[str, Tensor | None] = field(default_factory=dict)
    train: bool = False
    more: Callable[[nn.Module], Mapping[str, nn.Module]] = lambda model: {}


Entries = Callable[[], Iterator[Entry]]


def entry(
    name: str,
    make: Callable[[], nn.Module],
    *args: Any,
    real: Tensor | Mapping[str, Tensor | None] | None = None,
    train: bool = False,
    **kwargs: Any,
) -> Entry:
    """A model that is called with these arguments; a mask alone is that of every layer."""

    def call(model: nn.Module) -> Any:
        return model(*copy.deepcopy(args), **copy.deepcopy(kwargs))

    masks = real if isinstance(real, Mapping) else {} if real is None else {"*": real}
    return Entry(name, make, call, masks, train)


def numbers(*sizes: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    """Normal numbers, the same each time."""
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed)) * scale


def ids(*sizes: int, high: int = 64, low: int = 3, seed: int = 0) -> Tensor:
    """Token ids, the same each time."""
    return torch.randint(low, high, sizes, generator=torch.Generator().manual_seed(seed))


def padded(*lengths: int) -> Tensor:
    """Which positions are real of sequences of these lengths, padded on the right to the longest."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def bare_package(name: str) -> None:
    """Let the modules of a package be imported without running its own ``__init__``.

    For packages that import at once what no model of theirs needs (torchvision, torchaudio, an environment).

    Raises:
        ImportError: it is not installed.
    """
    if name in sys.modules:
        return
    spec = importlib.machinery.PathFinder.find_spec(name.rpartition(".")[2], _search(name))
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{name} is not installed")
    package = types.ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    package.__file__ = str(Path(package.__path__[0]) / "__init__.py")
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(importlib.import_module(parent), child, package)


def _search(name: str) -> list[str] | None:
    parent = name.rpartition(".")[0]
    return list(importlib.import_module(parent).__path__) if parent else None
