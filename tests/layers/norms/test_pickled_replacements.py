"""Models with swapped norms are pickled under a path that stays, and those of normprobe 0.1.0 load.

`data/swapped_by_0_1_0.pt` is `swapped()` run by normprobe 0.1.0 (commit c327cb0, torch 2.13) and saved whole
by ``torch.save``; `data/swapped_by_0_1_0.json` holds what it computed then of `images()`.
"""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe import counterparts

DATA = Path(__file__).parent / "data"
CLASSES = {
    "1": "ChannelBatchNorm",
    "2": "ChannelLayerNorm",
    "3": "ChannelRMSNorm",
    "6": "FeatureBatchNorm",
    "7": "FeatureGroupNorm",
    "8": "FeatureRMSNorm",
}
KINDS = ["batch_norm", "layer_norm", "rms_norm", "batch_norm", "group_norm", "rms_norm"]


def swapped() -> nn.Module:
    """A model with each of the norms that `swap_norms` can put in, none of whose weights is 0 or 1."""
    model: nn.Module = nn.Sequential(
        nn.Conv2d(2, 8, 1),
        *(nn.GroupNorm(2, 8) for _ in range(3)),
        nn.Flatten(2),
        nn.Linear(6, 8),
        *(nn.LayerNorm(8) for _ in range(3)),
    )
    for layer, kind in zip(CLASSES, KINDS, strict=True):
        model = normprobe.swap_norms(model, kind, layers=layer)  # type: ignore[arg-type]
    for number, parameter in enumerate(model.parameters()):
        values = torch.arange(1.0, parameter.numel() + 1).mul(number + 1).sin()
        parameter.data = values.reshape(parameter.shape)
    for buffer in model.buffers():
        buffer.copy_(torch.linspace(0.5, 1.5, buffer.numel()).reshape(buffer.shape))
    return model.eval()


def images() -> Tensor:
    return torch.arange(3.0 * 2 * 2 * 3).mul(0.7).cos().reshape(3, 2, 2, 3)


@pytest.fixture(scope="module")
def old() -> Any:
    return torch.load(DATA / "swapped_by_0_1_0.pt", weights_only=False)


def test_a_model_saved_by_0_1_0_computes_what_it_did(old: Any) -> None:
    assert {name: type(old[int(name)]).__name__ for name in CLASSES} == CLASSES
    then = json.loads((DATA / "swapped_by_0_1_0.json").read_text())
    for model in (old, swapped(), copy.deepcopy(old), pickle.loads(pickle.dumps(old))):
        with torch.no_grad():
            assert model(images()).flatten().tolist() == pytest.approx(then, abs=1e-5)


def test_a_model_saved_by_0_1_0_is_probed_as_one_made_now(old: Any) -> None:
    ours, theirs = (normprobe.record(model, images()) for model in (swapped(), old))
    ledger = theirs.ledger.set_index("layer")
    assert ledger.loc[list(CLASSES), "kind"].tolist() == KINDS
    assert ledger.loc[list(CLASSES), "status"].unique().tolist() == ["fired"]
    assert theirs.layers["mean"].tolist() == pytest.approx(ours.layers["mean"].tolist(), abs=1e-6)


@pytest.mark.parametrize("name", CLASSES.values())
def test_a_model_saved_now_names_the_path_that_stays(name: str) -> None:
    cls = getattr(counterparts, name)
    assert (cls.__module__, cls.__qualname__) == ("normprobe.counterparts", name)
    assert name.encode() in pickle.dumps(cls)


def test_only_these_classes_are_handed_on() -> None:
    assert sorted(counterparts.__all__) == sorted(CLASSES.values())
    assert [name for name in vars(counterparts) if not name.startswith("_")] == sorted(CLASSES.values())
