"""Tiny random models of more families of transformers, some deep, some padded left or right."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.findings.random_models_fitted import SMALL, STAGES, TEXT, Case

LM = SMALL | TEXT
HEADS = {"num_key_value_heads": 2, "head_dim": 12}
VISION = SMALL | {"image_size": 32, "patch_size": 8}
DEEP = {"num_hidden_layers": 16}
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "albert": ("AlbertConfig", LM | {"embedding_size": 24}),
    "mpnet": ("MPNetConfig", LM),
    "deberta": ("DebertaV2Config", LM),
    "modernbert": ("ModernBertConfig", LM),
    "xlm": ("XLMRobertaConfig", LM),
    "gpt2_deep": ("GPT2Config", TEXT | {"n_embd": 48, "n_layer": 16, "n_head": 4}),
    "gptj": ("GPTJConfig", TEXT | {"n_embd": 48, "n_layer": 3, "n_head": 4, "rotary_dim": 4}),
    "llama_deep": ("LlamaConfig", LM | DEEP | {"num_key_value_heads": 4}),
    "mistral": ("MistralConfig", LM | HEADS),
    "mixtral": ("MixtralConfig", LM | HEADS | {"num_local_experts": 4}),
    "phi": ("PhiConfig", LM),
    "falcon": ("FalconConfig", LM),
    "olmo2": ("Olmo2Config", LM | {"num_key_value_heads": 4}),
    "gemma3": ("Gemma3TextConfig", LM | HEADS),
    "stablelm": ("StableLmConfig", LM | {"num_key_value_heads": 4, "partial_rotary_factor": 0.5}),
    "cohere": ("CohereConfig", LM | {"num_key_value_heads": 4}),
    "biogpt": ("BioGptConfig", LM),
    "mamba": ("MambaConfig", TEXT | {"hidden_size": 48, "num_hidden_layers": 4, "state_size": 8}),
    "mamba_deep": ("MambaConfig", TEXT | {"hidden_size": 48, "num_hidden_layers": 16, "state_size": 8}),
    "bart": (
        "BartConfig",
        TEXT
        | {
            "d_model": 48,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 96,
            "decoder_ffn_dim": 96,
        },
    ),
    "t5_gated": (
        "T5Config",
        TEXT
        | {
            "d_model": 48,
            "d_kv": 12,
            "d_ff": 96,
            "num_layers": 6,
            "num_heads": 4,
            "feed_forward_proj": "gated-gelu",
        },
    ),
    "deit": ("DeiTConfig", VISION),
    "vit_deep": ("ViTConfig", VISION | DEEP),
    "dinov2": ("Dinov2Config", VISION),
    "swin": (
        "SwinConfig",
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [1, 2],
            "num_heads": [2, 4],
            "window_size": 4,
        },
    ),
    "segformer": ("SegformerConfig", {}),
    "convnext": ("ConvNextConfig", STAGES),
    "mobilenet_v2": ("MobileNetV2Config", {"image_size": 64}),
    "regnet": ("RegNetConfig", STAGES | {"embedding_size": 16, "groups_width": 8}),
    "wav2vec2": (
        "Wav2Vec2Config",
        SMALL
        | {
            "conv_dim": (32, 32, 32),
            "conv_stride": (5, 2, 2),
            "conv_kernel": (10, 3, 3),
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
        },
    ),
    "hubert": (
        "HubertConfig",
        SMALL
        | {
            "conv_dim": (32, 32, 32),
            "conv_stride": (5, 2, 2),
            "conv_kernel": (10, 3, 3),
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
        },
    ),
}
PADDED = {"llama_deep": "left", "mistral": "left", "albert": "right", "gpt2_deep": "left", "mpnet": "right"}


def more_model(family: str) -> Case:
    """Build a tiny random model of a family, with random tokens, pixels or sound."""
    import transformers

    name, options = MORE[family]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**options)
    model = transformers.AutoModel.from_config(config).eval()
    draw = torch.Generator().manual_seed(1)
    if "vocab_size" in options:
        return model, [_tokens(family, draw) for _ in range(3)]
    if "conv_dim" in options:
        return model, [torch.randn(4, 4000, generator=draw) for _ in range(2)]
    side = 64 if family in ("mobilenet_v2", "segformer") else 32
    return model, [{"pixel_values": torch.randn(8, 3, side, side, generator=draw)} for _ in range(3)]


def _tokens(family: str, draw: torch.Generator) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 200, (8, 16), generator=draw)
    if family in ("bart", "t5_gated"):
        return {"input_ids": ids, "decoder_input_ids": ids}
    if family not in PADDED:
        return {"input_ids": ids}
    real = torch.arange(16)[None] < torch.randint(5, 17, (8, 1), generator=draw)
    real = real.flip(1) if PADDED[family] == "left" else real
    return {"input_ids": ids.masked_fill(~real, 1), "attention_mask": real.long()}


RANDOM_MODELS_HELD_OUT = {f"r_{family}": (lambda family=family: more_model(family)) for family in MORE}
"""The random models of the held-out set by name."""
