"""With private names of torch switched off hooks measure as before, and the ledger says what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import StringIO
from typing import Any

import pandas as pd
import pytest

SCRIPT = """
import json
import torch
from torch import nn
from transformers.models.llama import LlamaConfig, LlamaForCausalLM
import normprobe

class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.gate = nn.Linear(4, 4), nn.Linear(4, 3)
    def forward(self, x):
        return nn.functional.linear(self.first(x), self.gate.weight)

torch.manual_seed(0)
shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, vocab_size=50, num_attention_heads=2)
llama = LlamaForCausalLM(LlamaConfig(**shape, pad_token_id=0))
encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
convolutions = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3), nn.GroupNorm(2, 4))
compiled = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)).eval()
inner = torch.compile(compiled, backend="eager")
with torch.no_grad():
    inner(torch.randn(3, 4))
tokens = torch.randint(1, 50, (3, 7))
mask = torch.ones_like(tokens)
mask[0, 4:] = 0
runs = {
    "llama": (llama, [{"input_ids": tokens, "attention_mask": mask}] * 5),
    "encoder": (encoder, [torch.randn(3, 5, 8) for _ in range(5)]),
    "convolutions": (convolutions, [torch.randn(3, 3, 9, 9) for _ in range(5)]),
    "router": (Router(), [torch.randn(3, 5, 4) for _ in range(5)]),
    "compiled": (inner, [torch.randn(3, 4) for _ in range(5)]),
}
found = {}
for name, (model, batches) in runs.items():
    recording = normprobe.record(model, batches, part="a")
    tables = {table: getattr(recording, table) for table in ("layers", "samples", "ledger")}
    found[name] = {table: frame.to_json(orient="table", index=False) for table, frame in tables.items()}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
print(json.dumps(found))
"""


def measured(switch: str) -> Any:
    """The tables of every model, by its name, from a process with the switch set."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "NORMPROBE_PRIVATE_TORCH": switch},
    )
    return {
        model: {name: pd.read_json(StringIO(table), orient="table") for name, table in tables.items()}
        for model, tables in json.loads(done.stdout.splitlines()[-1]).items()
    }


@pytest.fixture(scope="module")
def both() -> tuple[Any, Any]:
    return measured("1"), measured("0")


@pytest.mark.parametrize("model", ["llama", "convolutions"])
def test_what_hooks_see_is_measured_as_before(both: tuple[Any, Any], model: str) -> None:
    on, off = (found[model] for found in both)
    for name in ("layers", "samples", "ledger"):
        pd.testing.assert_frame_equal(off[name], on[name])


def test_layers_of_a_model_that_functions_use_too_are_measured_as_before(both: tuple[Any, Any]) -> None:
    on, off = (found["encoder"]["layers"].set_index(["layer", "site"]) for found in both)
    assert "self_attn.out_proj" in on.index.get_level_values(0)
    hooked = [key for key in on.index if not key[0].startswith("self_attn")]
    pd.testing.assert_frame_equal(off.loc[hooked].drop(columns="depth"), on.loc[hooked].drop(columns="depth"))


def test_uses_of_a_weight_alone_are_not_seen_and_the_ledger_says_so(both: tuple[Any, Any]) -> None:
    on, off = (found["router"]["ledger"].set_index("layer") for found in both)
    assert on.loc["gate", "status"] == "fired"
    assert off.loc["gate", "status"] == "never fired"
    assert off.loc["gate", "reason"].endswith("were not looked for: NORMPROBE_PRIVATE_TORCH=0")
    assert off.loc["first"].equals(on.loc["first"])


def test_compiled_code_stays_compiled_and_the_ledger_says_so(both: tuple[Any, Any]) -> None:
    on, off = (found["compiled"]["ledger"] for found in both)
    assert set(on["status"]) == {"fired"}
    assert set(off["status"]) == {"never fired"}
    assert all("compiled before" in reason for reason in off["reason"])
