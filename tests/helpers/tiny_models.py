"""Tiny models of transformers and torch from their config classes, with a batch each, for what blocks do."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 50,
}
IMAGE = {"image_size": 32, "patch_size": 8}

BLOCKS = {
    "llama": [f"layers.{i}" for i in range(3)],
    "olmo2": [f"layers.{i}" for i in range(3)],
    "gpt2": [f"h.{i}" for i in range(3)],
    "bert": [f"encoder.layer.{i}" for i in range(3)],
    "vit": [f"layers.{i}" for i in range(3)],
    "albert": ["encoder.albert_layer_groups.0"],
    "t5": [f"{side}.block.{i}" for side in ("encoder", "decoder") for i in range(2)],
    "xlnet": [f"layer.{i}" for i in range(3)],
    "torch": [f"layers.{i}" for i in range(3)],
}
"""The blocks of each model."""


def tiny(name: str, *, attention: str = "eager", seed: int = 0) -> Any:
    """A model in evaluation mode, its weights larger than at initialization, so that branches add something."""
    torch.manual_seed(seed)
    model = _made(name)
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation(attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def _made(name: str) -> Any:
    of_causal: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
    if name == "llama":
        return transformers.LlamaModel(transformers.LlamaConfig(**of_causal, pad_token_id=0))
    if name == "olmo2":
        return transformers.Olmo2Model(transformers.Olmo2Config(**of_causal, pad_token_id=0))
    if name == "gpt2":
        ids = {"bos_token_id": 1, "eos_token_id": 2}
        return transformers.GPT2Model(
            transformers.GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=50, **ids)
        )
    if name == "bert":
        return transformers.BertModel(transformers.BertConfig(**SIZES))
    if name == "vit":
        sizes = {key: value for key, value in SIZES.items() if key != "vocab_size"}
        return transformers.ViTModel(transformers.ViTConfig(**sizes, **IMAGE))
    if name == "albert":
        return transformers.AlbertModel(transformers.AlbertConfig(**SIZES, embedding_size=16))
    if name == "t5":
        config = transformers.T5Config(
            d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=50
        )
        return transformers.T5Model(config)
    if name == "xlnet":
        config = transformers.XLNetConfig(d_model=32, n_layer=3, n_head=4, d_inner=64, vocab_size=50)
        return transformers.XLNetModel(config)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)


def batch(name: str, *, size: int = 3, seed: int = 1) -> dict[str, Tensor]:
    """A batch of a model's keyword arguments, the last two examples padded where it takes a mask."""
    torch.manual_seed(seed)
    if name == "vit":
        return {"pixel_values": torch.randn(size, 3, 32, 32)}
    if name == "torch":
        return {"src": torch.randn(size, 12, 32)}
    real = mask(name, size=size)
    found = {"input_ids": torch.randint(3, 50, (size, 12)), "attention_mask": real}
    if name == "t5":
        found["decoder_input_ids"] = torch.randint(3, 50, (size, 7))
        found["decoder_attention_mask"] = torch.ones(size, 7, dtype=torch.long)
        found["decoder_attention_mask"][-1, 5:] = 0
    return found


def mask(name: str, *, size: int = 3) -> Tensor:
    """Which positions of a batch are real."""
    real = torch.ones(size, 12, dtype=torch.long)
    if name not in ("vit", "torch"):
        real[1:, 8:] = 0
    return real
