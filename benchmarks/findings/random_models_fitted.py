"""Tiny random models of families of transformers, for the findings benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

Case = tuple[nn.Module, list[Any]]
"""A model in evaluation mode, and batches as `normprobe.record` takes them."""

SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
TEXT = {
    "vocab_size": 200,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 2,
}
STAGES = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]}
RANDOM: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bert": ("BertConfig", SMALL | TEXT),
    "roberta": ("RobertaConfig", SMALL | TEXT),
    "electra": ("ElectraConfig", SMALL | TEXT | {"embedding_size": 24}),
    "distilbert": ("DistilBertConfig", TEXT | {"dim": 48, "n_layers": 3, "n_heads": 4, "hidden_dim": 96}),
    "gpt2": ("GPT2Config", TEXT | {"n_embd": 48, "n_layer": 3, "n_head": 4}),
    "opt": ("OPTConfig", SMALL | TEXT | {"ffn_dim": 96, "word_embed_proj_dim": 48}),
    "bloom": ("BloomConfig", SMALL | TEXT | {"n_layer": 3, "n_head": 4}),
    "gpt_neox": ("GPTNeoXConfig", SMALL | TEXT),
    "llama": ("LlamaConfig", SMALL | TEXT | {"num_key_value_heads": 4}),
    "qwen3": ("Qwen3Config", SMALL | TEXT | {"num_key_value_heads": 2, "head_dim": 12}),
    "gemma2": ("Gemma2Config", SMALL | TEXT | {"num_key_value_heads": 2, "head_dim": 12}),
    "t5": ("T5Config", TEXT | {"d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 3, "num_heads": 4}),
    "vit": ("ViTConfig", SMALL | {"image_size": 32, "patch_size": 8}),
    "convnextv2": ("ConvNextV2Config", STAGES),
    "resnet": ("ResNetConfig", STAGES | {"embedding_size": 16}),
}


def random_model(family: str) -> Case:
    """Build a tiny random model of a family of transformers, with random tokens or pixels."""
    import transformers

    name, options = RANDOM[family]
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(
        getattr(transformers, name)(**options), attn_implementation="eager"
    ).eval()
    draw = torch.Generator().manual_seed(1)
    if "vocab_size" not in options:
        return model, [{"pixel_values": torch.randn(8, 3, 32, 32, generator=draw)} for _ in range(3)]
    ids = [torch.randint(3, 200, (8, 16), generator=draw) for _ in range(3)]
    return model, [{"input_ids": x} | ({"decoder_input_ids": x} if family == "t5" else {}) for x in ids]
