"""Which tensor of several in its result a Linear computed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import normprobe
from tests.helpers.expert_models import batch, llama4


class ScoresFirst(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = super().forward(x)
        return logits.sigmoid(), logits


class LogitsFirst(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = super().forward(x)
        return logits, logits.sigmoid()


def test_the_output_of_a_linear_is_its_product_wherever_it_stands_in_the_result() -> None:
    for cls in (ScoresFirst, LogitsFirst):
        torch.manual_seed(0)
        model, data = cls(4, 3), [torch.randn(5, 4), torch.randn(7, 4)]
        recording = normprobe.record(model, data)
        product = torch.cat([nn.Linear.forward(model, x) for x in data]).detach().double().numpy()
        row = recording.layers.set_index("site").loc["output"]
        np.testing.assert_allclose([row["mean"], row["variance"]], [product.mean(), product.var()], rtol=1e-6)
        assert row["n_samples"] == 12


def test_the_router_of_llama4_gives_its_logits() -> None:
    model, seen = llama4(), []
    router = model.get_submodule("model.layers.0.feed_forward.router")
    router.register_forward_hook(lambda _, args, output: seen.append(output[1].clone()))
    given = {"input_ids": batch(1)["input_ids"]}
    recording = normprobe.record(model, [given])
    layers = recording.layers.set_index(["layer", "site"])
    row = layers.loc[("model.layers.0.feed_forward.router", "output")]
    np.testing.assert_allclose(row["variance"], seen[0].double().numpy().var(), rtol=1e-6)
