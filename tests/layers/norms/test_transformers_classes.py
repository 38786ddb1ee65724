"""Every norm-like class of transformers against a label made by reading it: is it a norm, of which kind?

The table holds each module class whose name contains "norm" or that keeps an eps. What does the work is
labelled a norm, what merely holds one is not.
"""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers
from torch import nn

import normprobe
from normprobe.layers.find import find_layers
from normprobe.layers.norms.identify import NO_NORM, UNKNOWN

TABLE = pd.read_csv(Path(__file__).parent / "norm_classes.csv", keep_default_na=False)
MADE_FOR = "5.24"
WIDTH = 8
SIZES = {
    "hidden_size",
    "dim",
    "normalized_shape",
    "num_channels",
    "n",
    "c_in",
    "feat_size",
    "num_features",
    "size",
}
OTHERS = {
    "group_size": 4,
    "num_groups": 2,
    "feature_dims": (5,),
    "num_heads": 3,
    "n_groups": 2,
    "dropout_prob": 0.1,
}
PECULIAR: dict[str, dict[str, Any]] = {
    "ConvDropoutLayerNorm": {"dropout_prob": 0.1},
    "ChameleonLayerNorm": {"hidden_size": (3, WIDTH)},
    "Emu3VQVAEGroupNorm": {"num_groups": 2, "num_channels": WIDTH},
    "Emu3VQVAESpatialNorm": {"in_channels": 32, "out_channels": 32},
    "BitGroupNormActivation": {"num_channels": 32},
}
SHAPES = (
    (4, 9, WIDTH),
    (4, WIDTH, 9),
    (4, WIDTH, 5, 6),
    (4, 9, 5, WIDTH),
    (4, 9, 3, WIDTH),
    (4, 9, 2, WIDTH),
)
REFUSES = (RuntimeError, ValueError, IndexError, AssertionError, TypeError)


@dataclass(frozen=True)
class Outcome:
    """What normprobe says of a class; `positive`: it is a norm."""

    positive: bool
    kind: str = ""
    features: int = 0
    reason: str = ""


def configured(cls: type[nn.Module]) -> Any:
    """The default configuration that a class asks for."""
    for name, kind in typing.get_type_hints(cls.__init__).items():
        if "config" in name and inspect.isclass(kind):
            return kind()
    names = vars(importlib.import_module(cls.__module__))
    return next(v() for k, v in names.items() if k.endswith("Config") and cls.__name__.startswith(k[:-6]))


def arguments(cls: type[nn.Module]) -> dict[str, Any]:
    """Arguments for a constructor, small where it asks for a size."""
    given: dict[str, Any] = dict(PECULIAR.get(cls.__name__, {}))
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]:
        needed = parameter.default is parameter.empty
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or name in given:
            continue
        if name in SIZES and (needed or parameter.default is None):
            given[name] = WIDTH
        elif name in OTHERS and (needed or parameter.default is None):
            given[name] = OTHERS[name]
        elif needed:
            given[name] = configured(cls) if "config" in name else 0 if "padding" in name else WIDTH
    return given or ({"normalized_shape": WIDTH} if issubclass(cls, nn.LayerNorm) else {})


def built(cls: type[nn.Module], device: str) -> nn.Module:
    with torch.device(device), torch.random.fork_rng():
        made = cls(**arguments(cls)).eval()
        if device == "cpu":
            for parameter in made.parameters():
                nn.init.uniform_(parameter, 0.5, 1.5)
            for name, buffer in made.named_buffers():
                if re.search("mean|var|std", name):
                    nn.init.uniform_(buffer, 0.5, 1.5)
    return made


def called(module: nn.Module) -> pd.Series:
    """The ledger's row of a module after a call with numbers of a shape that it takes."""
    takes = [name for name in inspect.signature(module.forward).parameters if "mask" not in name]
    second = len(takes) > 1 and "quant" not in takes[1]
    vectors = [tensor.numel() for tensor in (*module.parameters(), *module.buffers()) if tensor.dim() == 1]
    width = next((size for size in vectors if size > WIDTH), WIDTH)
    for shape in SHAPES if width in (24, WIDTH) else [(4, 9, width), (4, width, 5, 6)]:
        generator = torch.Generator().manual_seed(0)
        x, y = (torch.randn(shape, generator=generator) * scale + 0.7 for scale in (0.5, 1.5))
        with normprobe.Probe(module) as probe, torch.no_grad():
            try:
                module(x, *[y] * second)
            except REFUSES:
                continue
        return probe.recording.ledger.iloc[0]
    raise AssertionError(f"{type(module).__name__} takes none of the shapes")


def outcome_of(module: str, name: str) -> Outcome | None:
    """What normprobe says of a class; None if it cannot be built."""
    cls = getattr(importlib.import_module(f"transformers.{module}"), name)
    try:
        on_meta = built(cls, "meta")
    except (*REFUSES, AttributeError):
        return None
    try:
        layers = find_layers(on_meta).layers
    except normprobe.NoLayersError:
        return Outcome(False)
    if layers[0].name or layers[0].refused:
        return Outcome(False)
    try:
        row = called(built(cls, "cpu"))
    except AssertionError:
        # What its call must confirm first counts for nothing without one.
        if layers[0].view.unconfirmed:
            return Outcome(False)
        raise
    positive = row["status"] == "fired" and NO_NORM not in row["reason"]
    return Outcome(positive, row["kind"], row["n_features"], row["reason"])


@pytest.fixture(scope="module")
def outcomes() -> pd.DataFrame:
    if not transformers.__version__.startswith(MADE_FOR):
        pytest.skip(f"the table was made for transformers {MADE_FOR}")
    found = [outcome_of(module, name) for module, name in zip(TABLE["module"], TABLE["class"], strict=True)]
    return TABLE.assign(outcome=found)[[one is not None for one in found]]


def test_nearly_every_class_can_be_built(outcomes: pd.DataFrame) -> None:
    assert len(outcomes) >= 0.95 * len(TABLE)
    assert (outcomes["is_norm"] == 1).sum() == (TABLE["is_norm"] == 1).sum()


def test_precision_and_recall_by_class(outcomes: pd.DataFrame) -> None:
    positive = outcomes["outcome"].map(lambda one: one.positive)
    norm = outcomes["is_norm"] == 1
    right = (positive & norm).sum()
    assert right / positive.sum() >= 0.99, outcomes["class"][positive & ~norm].tolist()
    assert right / norm.sum() >= 0.99, outcomes["class"][~positive & norm].tolist()


def test_kinds_and_axes(outcomes: pd.DataFrame) -> None:
    norms = outcomes[outcomes["outcome"].map(lambda one: one.positive) & (outcomes["is_norm"] == 1)]
    by_class = dict(zip(norms["class"], norms["outcome"], strict=True))
    kinds = dict(zip(norms["class"], norms["kind"], strict=True))
    wrong = {name: outcome for name, outcome in by_class.items() if outcome.kind != kinds[name]}
    assert len(wrong) <= 0.01 * len(by_class), wrong
    # Sizes of the axes that hold no features.
    assert not {name: outcome for name, outcome in by_class.items() if outcome.features in (2, 3, 4, 5, 6, 9)}
    unknown = [name for name, outcome in by_class.items() if UNKNOWN in outcome.reason]
    assert len(unknown) <= 0.01 * len(by_class), unknown


def test_the_table_is_complete() -> None:
    """Every class of a norm's name in the installed version is labelled."""
    if not transformers.__version__.startswith(MADE_FOR):
        pytest.skip(f"the table was made for transformers {MADE_FOR}")
    root = Path(transformers.__file__).parent / "models"
    labelled = set(zip(TABLE["module"], TABLE["class"], strict=True))
    missing = []
    for path in sorted(set(root.glob("*/modeling_*.py")) - set(root.glob("auto/*"))):
        module = f"models.{path.parent.name}.{path.stem}"
        for name in re.findall(r"^ *class (\w*[nN]orm\w*)\(", path.read_text(), re.MULTILINE):
            if (module, name) not in labelled and not re.search("Output|Config|Loss", name):
                missing.append((module, name))
    assert not missing
