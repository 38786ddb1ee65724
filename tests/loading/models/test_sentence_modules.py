"""A sentence-transformers folder: what modules.json lists behind the transformer is built and measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

import normprobe
from normprobe.errors import ModelError
from normprobe.loading.inputs import load_inputs
from normprobe.loading.models import load_model
from tests.helpers import checkpoints

IDS = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0]])
MASK = (IDS != 0).long()
MEAN = {"word_embedding_dimension": 16, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
DENSE = {
    "in_features": 16,
    "out_features": 6,
    "bias": True,
    "activation_function": "torch.nn.modules.activation.Tanh",
}


def sentence_folder(
    folder: Path, *modules: tuple[str, dict[str, Any], dict[str, Tensor]], end: str = "safetensors"
) -> str:
    """A tiny BERT with these modules behind it: type, config, weights."""
    checkpoints.bert(folder)
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for at, (kind, config, weights) in enumerate(modules, 1):
        path = folder / f"{at}_{kind}"
        path.mkdir()
        (path / "config.json").write_text(json.dumps(config))
        if weights and end == "safetensors":
            save_file(weights, path / "model.safetensors")
        elif weights:
            torch.save(weights, path / "pytorch_model.bin")
        listed.append(
            {"idx": at, "name": str(at), "path": path.name, "type": f"sentence_transformers.models.{kind}"}
        )
    (folder / "modules.json").write_text(json.dumps(listed))
    return str(folder)


def weights(*sizes: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(sum(sizes))
    return {
        "linear.weight": torch.randn(*sizes, generator=draw),
        "linear.bias": torch.randn(sizes[0], generator=draw),
    }


def tokens_of(model: nn.Module) -> Tensor:
    transformer: Any = model.get_submodule("0")
    with torch.no_grad():
        return transformer(input_ids=IDS, attention_mask=MASK).last_hidden_state


POOLED: dict[str, Any] = {
    "mean": lambda t, m: (t * m).sum(1) / m.sum(1),
    "cls": lambda t, m: t[:, 0],
    "max": lambda t, m: torch.where(m == 0, -torch.inf, t).amax(1),
    "lasttoken": lambda t, m: torch.stack([t[0, 4], t[1, 2]]),
    "mean_sqrt_len_tokens": lambda t, m: (t * m).sum(1) / m.sum(1).sqrt(),
    "weightedmean": lambda t, m: torch.stack(
        [
            (t[0] * torch.arange(1.0, 6)[:, None]).sum(0) / 15,
            (t[1, :3] * torch.arange(1.0, 4)[:, None]).sum(0) / 6,
        ]
    ),
}


@pytest.mark.parametrize("end", ["safetensors", "bin"])
@pytest.mark.parametrize("mode", POOLED)
def test_pooling_dense_norm_and_length_compute_what_they_say(tmp_path: Path, mode: str, end: str) -> None:
    norm = {"norm.weight": torch.rand(6) + 0.5, "norm.bias": torch.randn(6)}
    dense = weights(6, 16)
    spec = sentence_folder(
        tmp_path,
        ("Pooling", {"embedding_dimension": 16, "pooling_mode": mode}, {}),
        ("Dropout", {"dropout": 0.5}, {}),
        ("Dense", DENSE, dense),
        ("LayerNorm", {"dimension": 6}, norm),
        ("Normalize", {}, {}),
        end=end,
    )
    model = load_model(spec, device="cpu").module
    with torch.no_grad():
        found = model(input_ids=IDS, attention_mask=MASK)["sentence_embedding"]
    pooled = POOLED[mode](tokens_of(model), MASK[..., None].float())
    projected = torch.tanh(pooled @ dense["linear.weight"].T + dense["linear.bias"])
    normed = nn.functional.layer_norm(projected, (6,), norm["norm.weight"], norm["norm.bias"])
    torch.testing.assert_close(found, nn.functional.normalize(normed, dim=1), rtol=1e-5, atol=1e-6)


def test_its_layers_are_measured_by_their_numbers(tmp_path: Path) -> None:
    spec = sentence_folder(
        tmp_path, ("Pooling", MEAN, {}), ("Dense", DENSE, weights(6, 16)), ("Normalize", {}, {})
    )
    loaded = load_model(spec, device="cpu")
    (tmp_path / "t.txt").write_text("the cat sat\na dog ran on the mat\n")
    inputs = load_inputs(loaded, str(tmp_path / "t.txt"))
    recording = normprobe.record(loaded.module, inputs.batches)
    layers = recording.layers.set_index(["layer", "site"])
    assert layers["n_samples"]["2.linear", "input"] == 2
    assert layers["masked"]["0.encoder.layer.0.attention.self.query", "input"] > 0
    assert set(recording.ledger["status"]) == {"fired"}
    assert loaded.warnings == (
        "pooler runs, but its output is not used: the Pooling of modules.json reads the tokens",
    )


def test_pooling_alone_changes_no_name(tmp_path: Path) -> None:
    spec = sentence_folder(tmp_path, ("Pooling", MEAN, {}), ("Normalize", {}, {}))
    loaded = load_model(spec, device="cpu")
    assert type(loaded.module) is transformers.BertModel
    assert "pooler runs, but its output is not used" in loaded.warnings[0]


def test_what_is_not_known_is_named(tmp_path: Path) -> None:
    spec = sentence_folder(
        tmp_path, ("Pooling", MEAN, {}), ("LSTM", {"hidden": 4}, {}), ("Dense", DENSE, weights(6, 16))
    )
    loaded = load_model(spec, device="cpu")
    assert type(loaded.module) is transformers.BertModel
    assert loaded.warnings[0] == (
        "2_LSTM, 3_Dense of modules.json left out: LSTM is not a module that is built here"
    )


def test_an_activation_of_unknown_code_is_never_called(tmp_path: Path) -> None:
    dense = DENSE | {"activation_function": "os.system"}
    spec = sentence_folder(tmp_path, ("Pooling", MEAN, {}), ("Dense", dense, weights(6, 16)))
    assert (
        "2_Dense of modules.json left out: its config.json does not say how" in load_model(spec).warnings[0]
    )


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({}, "2_Dense has no weights"),
        (weights(5, 16), "does not fit the Dense that its config.json describes"),
    ],
)
def test_weights_that_are_not_there_or_do_not_fit(
    tmp_path: Path, stored: dict[str, Tensor], words: str
) -> None:
    spec = sentence_folder(tmp_path, ("Pooling", MEAN, {}), ("Dense", DENSE, stored))
    with pytest.raises(ModelError) as error:
        load_model(spec)
    assert words in str(error.value)


def test_the_modules_compute_in_the_transformers_dtype(tmp_path: Path) -> None:
    spec = sentence_folder(tmp_path, ("Pooling", MEAN, {}), ("Dense", DENSE, weights(6, 16)))
    module = load_model(spec, dtype="bfloat16", device="cpu").module
    found = module(input_ids=IDS, attention_mask=MASK)["sentence_embedding"]
    assert found.dtype is torch.bfloat16


def test_an_adapter_beside_the_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transformers does not load it itself, for want of peft."""
    monkeypatch.setattr("transformers.modeling_utils.is_peft_available", lambda *_: False, raising=False)
    spec = checkpoints.bert(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x"}')
    assert load_model(spec, device="cpu").warnings == (
        "adapter_config.json lies beside the model: the adapter's weights are left out",
    )
