"""Inputs without data: of models of transformers what their config says; of others the shape to give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from click.testing import CliRunner
from torch import nn

import normprobe
from normprobe.cli import main
from normprobe.errors import DataError
from normprobe.loading.inputs import load_inputs
from normprobe.loading.inputs.expected_shape import array_to_give
from normprobe.loading.models import LoadedModel

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
PICTURE = {**SMALL, "image_size": 32, "patch_size": 8}
SPEECH: dict[str, Any] = {
    **{"vocab_size": 100, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2},
    **{"encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
CASES: dict[str, Any] = {
    "bert": lambda: tf.BertModel(tf.BertConfig(vocab_size=100, **SMALL)),
    "gpt2": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=100, n_embd=16, n_layer=1, n_head=2)),
    "roberta": lambda: tf.RobertaModel(tf.RobertaConfig(vocab_size=100, max_position_embeddings=12, **SMALL)),
    "t5": lambda: tf.T5Model(
        tf.T5Config(vocab_size=100, d_model=16, num_layers=1, num_heads=2, d_ff=32, d_kv=8, **IDS)
    ),
    "vit": lambda: tf.ViTModel(tf.ViTConfig(**PICTURE)),
    "clip": lambda: tf.CLIPModel(
        tf.CLIPConfig(text_config={"vocab_size": 100, **SMALL, **IDS}, vision_config=PICTURE)
    ),
    "vilt": lambda: tf.ViltModel(tf.ViltConfig(vocab_size=100, **PICTURE)),
    "wav2vec2": lambda: tf.Wav2Vec2Model(
        tf.Wav2Vec2Config(
            conv_dim=(8,) * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, **SMALL
        )
    ),
    "whisper": lambda: tf.WhisperModel(
        tf.WhisperConfig(max_source_positions=20, num_mel_bins=8, **SPEECH, **IDS)
    ),
    "ast": lambda: tf.ASTModel(tf.ASTConfig(max_length=40, num_mel_bins=16, patch_size=8, **SMALL)),
    "speech2text": lambda: tf.Speech2TextModel(
        tf.Speech2TextConfig(conv_channels=8, input_feat_per_channel=8, **SPEECH, **IDS)
    ),
}


def loaded(module: nn.Module, config: Any = None) -> LoadedModel:
    """A model as a callable of the user's gives it: nothing lies beside it."""
    module = module.eval()
    config = getattr(module, "config", None) if config is None else config
    return LoadedModel(module, "nets.py:build", None, None, config, torch.device("cpu"), False)


@pytest.mark.parametrize("case", CASES)
def test_a_model_from_a_config_runs_without_data(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder that happens to hold what looks like a tokenizer or a processor is not the model's.
    monkeypatch.chdir(tmp_path)
    for name in ("vocab.txt", "preprocessor_config.json"):
        Path(name).write_text("{}")
    torch.manual_seed(0)
    model, random = loaded(CASES[case]()), torch.random.get_rng_state()
    inputs = load_inputs(model)
    assert inputs.total == len(list(inputs.batches))
    assert torch.equal(random, torch.random.get_rng_state())
    recording = normprobe.record(model.module, inputs.batches)
    assert recording.ledger["status"].eq("fired").mean() > 0.8
    said = " ".join(inputs.warnings)
    assert "random" in said or "noise" in said or "no image processor" in said
    # Anew and the same in each iteration.
    for first, second in zip(inputs.batches, inputs.batches, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_random_tokens_are_of_the_vocabulary_and_none_that_has_a_name() -> None:
    model = loaded(tf.BertModel(tf.BertConfig(vocab_size=6, pad_token_id=0, eos_token_id=[3, 4], **SMALL)))
    inputs = load_inputs(model, limit=5, batch_size=2)
    assert inputs.description == "5 texts of 16 random token ids (of 6)"
    assert (inputs.unit, inputs.example_unit) == ("token", "text")
    batches = list(inputs.batches)
    assert [len(batch["input_ids"]) for batch in batches] == [2, 2, 1]
    assert set(torch.cat([batch["input_ids"] for batch in batches]).flatten().tolist()) == {1, 2, 5}
    assert all(bool(batch["attention_mask"].all()) for batch in batches)
    assert inputs.warnings == (
        "nets.py:build has no tokenizer beside it: tokens are random, and statistics not those of text",
    )


def test_texts_are_no_longer_than_the_model_reads() -> None:
    (batch,) = load_inputs(loaded(CASES["roberta"]())).batches
    assert batch["input_ids"].shape == (8, 10)


def test_what_the_config_does_not_say_is_asked_for() -> None:
    class Waves(nn.Module):
        main_input_name = "input_values"

        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv1d(1, 4, 3)

        def forward(self, input_values: Any) -> Any:
            return self.convolution(input_values)

    config = tf.PretrainedConfig()
    with pytest.raises(
        DataError, match=r"shape \(examples, 1, length\) into x.npy, .*convolution \(Conv1d\)"
    ):
        load_inputs(loaded(Waves(), config))


class Two(nn.Module):
    def forward(self, x: Any, y: Any, scale: float = 1.0) -> Any:
        return x


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Linear(8, 4), "an array of shape (examples, 8) into x.npy, which it reads"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2)), "(examples, 3, height, width) into x.npy"),
        (nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3)), "its first layer, 1 (BatchNorm2d), reads"),
        (nn.Sequential(nn.BatchNorm1d(3)), "(examples, 3) into"),
        (nn.Sequential(nn.LayerNorm((2, 5))), "(examples, 2, 5) into"),
        (nn.LSTM(7, 3), "(positions, examples, 7) into"),
        (nn.GRU(7, 3, batch_first=True), "(examples, positions, 7) into"),
        (nn.Sequential(nn.Embedding(30, 4)), "(examples, positions: whole numbers below 30) into"),
        (Two(), "arrays named x, y, which its forward takes, into x.npz and give --data x.npz"),
        (nn.ReLU(), "give --data, such as x.npy"),
    ],
)  # fmt: skip
def test_the_shape_to_give_is_that_of_the_first_layer(module: nn.Module, says: str) -> None:
    assert says in array_to_give(module)


def test_the_shape_to_give_is_one_that_runs(tmp_path: Path) -> None:
    (tmp_path / "shape_net.py").write_text(
        "from torch import nn\n\n\ndef build():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))\n"
    )
    name = f"{tmp_path}/shape_net.py:build"
    done = CliRunner().invoke(main, ["layers", name])
    assert done.exit_code == 1
    assert "put an array of shape (examples, 3, height, width) into x.npy" in done.stderr
    np.save(tmp_path / "x.npy", np.ones((2, 3, 8, 8), np.float32))
    done = CliRunner().invoke(main, ["layers", name, "--data", str(tmp_path / "x.npy")])
    assert done.exit_code == 0, done.stderr


LOADER = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertModel

def bert():
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(BertConfig(vocab_size=100, **small))

def build():
    return nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4))

loader = DataLoader(TensorDataset(torch.randn(12, 8), torch.arange(12)), batch_size=4)
"""


def test_the_command_line_says_what_it_made_up_and_what_it_left_out(tmp_path: Path) -> None:
    (tmp_path / "loader_net.py").write_text(LOADER)
    name = f"{tmp_path}/loader_net.py"
    done = CliRunner().invoke(main, ["layers", f"{name}:bert"])
    assert done.exit_code == 0, done.stderr
    assert "tokens are random" in done.stderr
    done = CliRunner().invoke(main, ["layers", f"{name}:build", "--data", f"{name}:loader"])
    assert done.exit_code == 0, done.stderr
    assert "Note: of each batch of 2 items the last item is left out, as labels are" in done.stderr
