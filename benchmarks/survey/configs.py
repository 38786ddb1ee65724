"""Tiny configurations of any transformers model type, made from the defaults of its config class."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from transformers import PretrainedConfig

# A number is shrunk by the first rule whose pattern matches its whole name.
_RULES: list[tuple[str, int]] = [
    (r"num_channels|in_channels?|in_chans|num_labels|\w*kernel_size|\w*stride|\w*temporal_patch_size", -1),
    (
        r"sampling_rate|sample_rate|\w*expand|chunk_size|\w*downsample\w*|\w*upsample\w*|\w*_ratio|hop_length",
        -1,
    ),
    (r"\w*(image|video|audio|vision|boi|eoi|boa|eoa|soi)_?(token|token_id|token_index|placeholder_id)", 110),
    (r"\w*bos_(token_id|index)", 1),
    (r"\w*(eos|sep|decoder_start)_?(token_id|index)", 2),
    (r"\w*pad_(token_id|index)|padding_idx", 0),
    (r"\w*token_id\w*", 3),
    (r"\w*vocab_size\w*|n_vocab|vocabulary_size", 120),
    (r"\w*(key_value_heads|kv_heads)", 2),
    (r"\w*experts_per_tok(en)?|\w*selected_experts|\w*top_?k(_experts)?", 2),
    (r"n_group|topk_group|n_shared_experts|num_shared_experts", 1),
    (r"\w*experts?|moe_num_experts", 4),
    (r"\w*(attention_heads|_heads?|nhead)|heads", 4),
    (r"rotary_dim", 4),
    (r"\w*window_size", 4),
    (r"num_groups", 4),
    (r"\w*head_dim|\w*head_size|d_kv|d_head", 8),
    (r"\w*(lora_rank|lora_dim|_rank)", 16),
    (r"\w*(position_embeddings|_positions|seq_len|seq_length|sequence_length)|n_ctx|max_length", 128),
    (r"\w*layers?|depth|\w*_depth|\w*num_blocks|\w*layers_count", 2),
    (r"image_size|input_size|img_size", 32),
    (r"\w*patch_size", 8),
    (r"\w*(intermediate_size|ffn_dim|ffn_hidden_size|mlp_dim|feedforward_dim|ffn_size)|d_ff|n_inner", 64),
    (r"d_inner|dim_feedforward|mlp_hidden_size|hidden_dim", 64),
    (r"\w*(hidden_size|embed_dim|embedding_dim|embedding_size|_dim|_channels|_width|_filters)", 32),
    (r"d_model|n_embd|dim|width|projection_size|output_size|\w*_size_per_layer_input", 32),
]
# Of what is too entangled to be made small in its widths, at least the number of its layers and words.
_SHALLOW = r"\w*layers?|depth|\w*_depth|\w*num_blocks|\w*layers_count|\w*vocab_size\w*|\w*experts?"
_RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage2", "stage3", "stage4"],
}
_ON_RESNET = {"use_timm_backbone": False, "backbone": None, "backbone_config": _RESNET}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_SERIES = {"prediction_length": 6, "context_length": 16, "lags_sequence": [1, 2, 3]}
# Sizes that depend on one another in ways of their own.
_OVERRIDES: dict[str, dict[str, Any]] = {
    "autoformer": _SERIES,
    "deepseek_v2": {"num_experts_per_tok": 2, "num_key_value_heads": 4},
    "efficientnet": {"hidden_dim": 1280, "num_hidden_layers": 8},
    "glm_image_text": {"rope_parameters": _MROPE | {"partial_rotary_factor": 1.0}},
    "glm_ocr_text": {"rope_parameters": _MROPE | {"partial_rotary_factor": 1.0}},
    "hunyuan_vl_text": {"head_dim": 8},
    "led": {"max_encoder_position_embeddings": 1024, "attention_window": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "swin": {"depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "image_size": 32, "patch_size": 4},
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8},
    "cvt": {"depth": [1, 1, 1]},
    "esm": {"vocab_size": 120, "pad_token_id": 0, "mask_token_id": 3},
    "falcon_h1": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_ssm": 64, "mamba_d_state": 8},
    "glm4v_moe_text": {"rope_parameters": _MROPE | {"partial_rotary_factor": 1.0}},
    "glm4v_text": {"rope_parameters": _MROPE | {"partial_rotary_factor": 1.0}},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "informer": _SERIES,
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1},
    "ministral": {"head_dim": 8},
    "nemotron_h": {"mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 2, "mamba_n_groups": 2},
    "qwen2_5_vl_text": {"rope_parameters": _MROPE},
    "qwen2_vl_text": {"rope_parameters": _MROPE},
    "reformer": {"axial_pos_embds_dim": [8, 24], "axial_pos_shape": [4, 32], "attn_layers": ["local", "lsh"]},
    "time_series_transformer": _SERIES,
    "conditional_detr": _ON_RESNET,
    "dab-detr": _ON_RESNET,
    "deformable_detr": _ON_RESNET,
    "detr": _ON_RESNET,
    "mimi": {"upsample_groups": 32},
    "moonshine": {"encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4},
    "table-transformer": _ON_RESNET,
    "wav2vec2-bert": {"vocab_size": 32},
    "wav2vec2-conformer": {"vocab_size": 32},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {"n_mamba_heads": 4, "mamba_headdim": 16, "attention_hidden_size": 64},
}
_COMPILED = [(re.compile(pattern), value) for pattern, value in _RULES]
LARGEST = 60_000_000


def tiny(cls: type[PretrainedConfig]) -> Iterator[PretrainedConfig]:
    """Small configurations of a class: given to its constructor, or set afterwards; likelier ones first."""
    own = _OVERRIDES.get(cls.model_type, {})
    equal = {"num_key_value_heads": 4}
    for through_constructor, extra in ((True, {}), (True, equal), (False, {}), (False, equal)):
        try:
            start = cls(**(_SERIES if own is _SERIES else {}))
            config = _shrunk(start, through_constructor, own | extra)
        except Exception:  # a class may refuse any combination of sizes, in any words
            continue
        yield config
    for make in (lambda: _shallow(cls()), cls):
        try:
            yield make()
        except Exception:  # the same
            continue


def _shallow(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration with as few layers, words and experts, and nothing else made small."""
    for name, value in list(vars(config).items()):
        if isinstance(value, PretrainedConfig):
            _shallow(value)
        elif re.fullmatch(_SHALLOW, name):
            small = _smaller(name, value, False)
            if small is not value:
                setattr(config, name, small)
    return config


def _shrunk(
    config: PretrainedConfig, through_constructor: bool, extra: dict[str, Any] | None = None
) -> PretrainedConfig:
    new = {name: _smaller(name, value, through_constructor) for name, value in vars(config).items()}
    changed = {name: value for name, value in new.items() if value is not vars(config)[name]} | (extra or {})
    if through_constructor:
        takes = _parameters(type(config))
        config = type(config)(**{name: value for name, value in changed.items() if name in takes})
        changed = {"use_cache": False} if hasattr(config, "use_cache") else {}
    for name, value in changed.items():
        setattr(config, name, value)
    return config


def _parameters(cls: type[PretrainedConfig]) -> set[str]:
    found: set[str] = set()
    for base in cls.__mro__:
        if base is PretrainedConfig:
            break
        found |= set(getattr(base, "__annotations__", {}))
        if "__init__" in vars(base):
            found |= set(inspect.signature(base.__init__).parameters)
    return found


def _smaller(name: str, value: Any, through_constructor: bool) -> Any:
    if isinstance(value, PretrainedConfig):
        return _shrunk(value, through_constructor, _OVERRIDES.get(value.model_type))
    if isinstance(value, bool) or not isinstance(value, (int, list, tuple, dict)):
        return value
    for pattern, small in _COMPILED:
        if pattern.fullmatch(name) and isinstance(value, int):
            return min(value, small) if value > 0 and small >= 0 else value
    if isinstance(value, dict) and "mrope_section" in value:
        return {**value, "mrope_section": [2, 1, 1]}
    return _shorter(name, value) if isinstance(value, (list, tuple)) else value


def _shorter(name: str, values: Any) -> Any:
    """Lists per stage: as many stages, each small."""
    if not values or not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return values
    if re.search(r"depths?$|blocks|num_layers|layers$|repeats", name):
        return type(values)(min(value, 1) for value in values)
    if re.search(r"hidden_sizes|embed_dims?$|channels$|neck|dims$|_sizes$|widths", name) and max(values) > 16:
        return type(values)(16 * (1 + index) for index in range(len(values)))
    if re.search(r"heads$", name):
        return type(values)(min(value, 2) for value in values)
    return values
