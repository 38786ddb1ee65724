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

FIFTH = int(transformers.__version__.split(".")[0]) >= 5
"""Whether transformers is of its fifth version, in which some modules have other names."""
BLOCKS = {
    "llama": [f"layers.{i}" for i in range(3)],
    "olmo2": [f"layers.{i}" for i in range(3)],
    "gpt2": [f"h.{i}" for i in range(3)],
    "bert": [f"encoder.layer.{i}" for i in range(3)],
    "vit": [f"{'layers' if FIFTH else 'encoder.layer'}.{i}" for i in range(3)],
    "albert": ["encoder.albert_layer_groups.0"],
    "t5": [f"{side}.block.{i}" for side in ("encoder", "decoder") for i in range(2)],
    "xlnet": [f"layer.{i}" for i in range(3)],
    "torch": [f"layers.{i}" for i in range(3)],
}
"""The blocks of each model."""


def tiny(name: str, *, attention: str = "eager", seed: int = 0) -> Any:
    """A model in evaluation mode, its weights larger than they begin, so that branches add something."""
    torch.manual_seed(seed)
    model = _made(name, attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def _made(name: str, attention: str) -> Any:
    """The model of a name, with the weights that its library gives it."""
    if name == "torch":
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    ids: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2}
    causal = {**SIZES, **ids, "num_key_value_heads": 2, "pad_token_id": 0}
    pixels = {key: value for key, value in SIZES.items() if key != "vocab_size"} | IMAGE
    of_t5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 50}
    configs: dict[str, tuple[str, dict[str, Any]]] = {
        "llama": ("Llama", causal),
        "olmo2": ("Olmo2", causal),
        "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 50, **ids}),
        "bert": ("Bert", SIZES),
        "vit": ("ViT", pixels),
        "albert": ("Albert", {**SIZES, "embedding_size": 16}),
        "t5": ("T5", of_t5),
        "xlnet": ("XLNet", {"d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 64, "vocab_size": 50}),
    }
    stem, sizes = configs[name]
    return getattr(transformers, f"{stem}Model")(
        getattr(transformers, f"{stem}Config")(**sizes, attn_implementation=attention)
    )


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
