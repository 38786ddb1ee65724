"""What each quantizer collects, by its own formula: one recording has it all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import normprobe
from benchmarks.exports.collectors import COLLECTORS, CONSUMERS, collecting
from tests.helpers import quantizers

EXAMPLES = 12
# Of 15 Linear layers those that a consumer hooks, where it leaves some out; of llm-compressor norms.
LAYERS = {
    "AWQ: mean |x|": 8,
    "llm-compressor: ranges": 4,
    "GPTQ: diagonal alone": 14,
    "llama.cpp: imatrix": 14,
}


def of_features(column: Callable[[pd.DataFrame], Any]) -> Callable[[Any, str, str], Any]:
    """A statistic of each feature, by recording, layer and site."""

    def found(recording: Any, layer: str, site: str) -> Any:
        features = recording.features.query("layer == @layer and site == @site")
        return np.asarray(column(features))

    return found


def largest_of_layer(recording: Any, layer: str, site: str) -> Any:
    return recording.layers.query("layer == @layer and site == @site")["abs_max"].item()


def squares(features: pd.DataFrame) -> Any:
    return features["count"] * (features["mean"] ** 2 + features["variance"])


# By consumer: the key of what it collects behind the layer's name, what of a recording that is, and how near.
KNOWN: dict[str, list[tuple[str, Callable[[Any, str, str], Any], float]]] = {
    "SmoothQuant: act_scales": [("", of_features(lambda f: f["abs_max"]), 0)],
    "AWQ: mean |x|": [
        ("", of_features(lambda f: f["abs_mean"] * f["count"]), 1e-6),
        (".count", of_features(lambda f: f["count"].iloc[0]), 0),
    ],
    "llm-compressor: ranges": [
        (".least", of_features(lambda f: f["min"]), 0),
        (".most", of_features(lambda f: f["max"]), 0),
    ],
    "Model-Optimizer: amax": [("", largest_of_layer, 0)],
    "GPTQ: diagonal alone": [("", of_features(lambda f: 2 * squares(f) / EXAMPLES), 1e-6)],
    "llama.cpp: imatrix": [("", of_features(squares), 1e-6)],
    "llm-compressor: imatrix_mse": [("", of_features(squares), 1e-6)],
    "Model-Optimizer: SmoothQuant": [("", of_features(lambda f: f["abs_max"]), 0)],
}


def test_six_consumers_are_served() -> None:
    assert set(CONSUMERS) < set(KNOWN)
    assert len(CONSUMERS) == 6
    # Whose matrix no recording gives, but for its diagonal.
    assert set(COLLECTORS) - set(KNOWN) == {"GPTQ: whole matrix"}


@pytest.mark.parametrize("name", KNOWN)
def test_a_recording_has_what_it_collects(name: str) -> None:
    model, data = quantizers.llama(), quantizers.batches()
    recording = normprobe.record(model, data)
    with torch.no_grad(), collecting(model, name) as sums:
        for batch in data:
            model(**batch)
    site = "output" if COLLECTORS[name].at_output else "input"
    layers = {key.removesuffix(".count").removesuffix(".least").removesuffix(".most") for key in sums}
    assert len(layers) == LAYERS.get(name, 15)
    for layer in layers:
        for key, statistic, tolerance in KNOWN[name]:
            found = np.float32(statistic(recording, layer, site))
            np.testing.assert_allclose(found, sums[layer + key].numpy(), rtol=tolerance, atol=0)


def test_of_gptq_it_has_the_diagonal() -> None:
    model, data = quantizers.llama(), quantizers.batches()
    recording = normprobe.record(model, data)
    with torch.no_grad(), collecting(model, "GPTQ: whole matrix") as sums:
        for batch in data:
            model(**batch)
    (_, diagonal, _), *_ = KNOWN["GPTQ: diagonal alone"]
    layers = [name for name in sums if not name.endswith(".count")]
    assert len(layers) == 14
    for layer in layers:
        held = diagonal(recording, layer, "input")
        np.testing.assert_allclose(held, sums[layer].diagonal().numpy(), rtol=1e-6)
