"""Trained checkpoints that packages carry: every layer exact, whatever its kind; what never ran is named."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import normprobe
from benchmarks.survey import checkpoint_models
from benchmarks.survey.check import check
from benchmarks.survey.checkpoint_models import CHECKPOINTS

KINDS = {
    "EfficientNet-Lite0": {"batch_norm": 49, "linear": 1},
    "MiniLM-L6": {"layer_norm": 13, "linear": 37},
    "Fracast-0": {"rms_norm": 8, "linear": 15},
    "FCPE": {"group_norm": 1, "layer_norm": 13, "linear": 1},
    "deepbet": {"instance_norm": 34},
    "SmolLM2-135M": {"rms_norm": 61, "linear": 211},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(CHECKPOINTS))
def test_every_layer_is_exact(name: str) -> None:
    try:
        model, run, mask = CHECKPOINTS[name]()
    except ImportError as error:
        pytest.skip(str(error))
    with torch.no_grad():
        found = check(model, run, mask)
        with normprobe.Probe(model, samples=8, values=0) as probe:
            run()
    assert found.faults == []
    assert found.exact == found.fired == found.layers - found.declared
    ledger = probe.recording.ledger
    assert Counter(ledger["kind"]) == KINDS[name]
    never = ledger.loc[ledger["status"] != "fired", "layer"].tolist()
    assert never == ([f"net.encoder_layers.{block}.norm" for block in range(6)] if name == "FCPE" else [])


def test_what_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="deepbet is not installed"):
        checkpoint_models.deepbet()
    with pytest.raises(ImportError, match="torchfcpe is not installed"):
        checkpoint_models.torchfcpe()
