"""Names of weights in GGUF files, for every architecture that they are given for."""

from __future__ import annotations

import re
from typing import Any

import gguf
import pytest
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from normprobe.errors import RecordingError
from normprobe.tables.quantizer_files.gguf_names import _ARCHITECTURES, GgufName, gguf_names
from tests.helpers.quantizers import SIZES

SPLIT = {"attn_q", "attn_k", "attn_v", "attn_output"}
MERGED = {"attn_qkv", "attn_output"}
GATED, PLAIN, NO_EXPERTS = {"ffn_gate", "ffn_up", "ffn_down"}, {"ffn_up", "ffn_down"}, set[str]()
# What the first block of each has, as in the files that llama.cpp's conversion writes. The experts of
# transformers 5 are no modules.
BLOCKS = {
    "Arcee": SPLIT | PLAIN,
    "Bert": SPLIT | PLAIN,
    "Bloom": MERGED | PLAIN,
    "Cohere": SPLIT | GATED,
    "Cohere2": SPLIT | GATED,
    "Ernie4_5": SPLIT | GATED,
    "Exaone4": SPLIT | GATED,
    "Falcon": MERGED | PLAIN,
    "GPT2": MERGED | PLAIN,
    "GPTBigCode": MERGED | PLAIN,
    "GPTNeoX": MERGED | PLAIN,
    "Gemma": SPLIT | GATED,
    "Gemma2": SPLIT | GATED,
    "Gemma3Text": SPLIT | GATED,
    "Glm": SPLIT | PLAIN,
    "Glm4": SPLIT | PLAIN,
    "Granite": SPLIT | GATED,
    "GraniteMoe": SPLIT | NO_EXPERTS,
    "HunYuanDenseV1": SPLIT | GATED,
    "Llama": SPLIT | GATED,
    "Mistral": SPLIT | GATED,
    "Mixtral": SPLIT | NO_EXPERTS,
    "Mpt": MERGED | PLAIN,
    "Nemotron": SPLIT | PLAIN,
    "Olmo": SPLIT | GATED,
    "Olmo2": SPLIT | GATED,
    "Olmoe": SPLIT | NO_EXPERTS,
    "Phi": SPLIT | PLAIN,
    "Phi3": MERGED | PLAIN,
    "Phimoe": SPLIT | NO_EXPERTS,
    "Qwen2": SPLIT | GATED,
    "Qwen2Moe": SPLIT | {"ffn_gate_inp_shexp", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"},
    "Qwen3": SPLIT | GATED,
    "Qwen3Moe": SPLIT | NO_EXPERTS,
    "SeedOss": SPLIT | GATED,
    "SmolLM3": SPLIT | GATED,
    "StableLm": SPLIT | GATED,
    "Starcoder2": SPLIT | PLAIN,
}
OTHER_SIZES: dict[str, Any] = {
    "n_embd": 32, "n_layer": 2, "n_layers": 2, "n_head": 4, "n_heads": 4, "d_model": 32, "n_inner": 48,
    "num_experts": 4, "num_local_experts": 4, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}  # fmt: skip


def model(family: str) -> nn.Module:
    """A small model of a family, without numbers."""
    config = getattr(transformers, f"{family}Config", None)
    if config is None or _ARCHITECTURES[family] not in gguf.MODEL_ARCH_NAMES.values():
        pytest.skip(f"the installed transformers or gguf have no {family}")
    names = (f"{family.removesuffix('Text')}{what}" for what in ("ForCausalLM", "LMHeadModel", "Model"))
    # BERT as what it is converted from: the encoder.
    cls = transformers.BertModel if family == "Bert" else next(filter(None, map(_class, names)))
    with torch.device("meta"):
        # Else this one takes its head's size for None.
        return cls(config(**SIZES, **OTHER_SIZES, **({"head_dim": 8} if family == "HunYuanDenseV1" else {})))


def _class(name: str) -> Any:
    return getattr(transformers, name, None)


def linears(of: nn.Module) -> list[str]:
    return [name for name, module in of.named_modules() if isinstance(module, nn.Linear | Conv1D)]


def test_every_family_is_tried() -> None:
    assert set(BLOCKS) | {"Gemma3"} == set(_ARCHITECTURES)


@pytest.mark.parametrize("family", BLOCKS)
def test_every_linear_of_a_block_has_its_name(family: str) -> None:
    tried = model(family)
    # Older releases of gguf have no name for Phimoe's router.
    layers = [name for name in linears(tried) if re.search(r"\.\d+\.", name) and "router" not in name]
    names = gguf_names(type(tried).__name__, layers)
    assert set(names) == set(layers)
    assert len(set(names.values())) == len(layers), "no two layers are one weight"
    found = {name.weight for name in names.values() if name.weight.startswith("blk.0.")}
    expected = {f"blk.0.{part}.weight" for part in BLOCKS[family]}
    # Whether routers and experts are nn.Linear depends on the release of transformers.
    assert {name for name in found if not re.search("exps|gate_inp.weight", name)} == expected


def test_experts_share_a_weight() -> None:
    before = "model.layers.1.block_sparse_moe.experts"
    found = gguf_names("MixtralForCausalLM", [f"{before}.{expert}.w2" for expert in (0, 11)])
    assert list(found.values()) == [
        GgufName("blk.1.ffn_down_exps.weight", 0),
        GgufName("blk.1.ffn_down_exps.weight", 11),
    ]


@pytest.mark.parametrize(
    ("cls", "layer"),
    [
        ("LlamaModel", "layers.3.self_attn.q_proj"),
        ("GPT2Model", "h.3.attn.c_attn"),
        ("BertForSequenceClassification", "bert.encoder.layer.3.attention.self.query"),
    ],
)
def test_other_heads_and_none(cls: str, layer: str) -> None:
    assert gguf_names(cls, [layer])[layer].weight.startswith("blk.3.attn_q")


def test_a_layer_without_a_name_has_none() -> None:
    assert gguf_names("LlamaForSequenceClassification", ["score"]) == {}


@pytest.mark.parametrize("cls", ["DeepseekV3ForCausalLM", "Qwen3_5ForCausalLM", "Llama", "ViTModel", "Net"])
def test_classes_whose_conversion_is_not_known_to_keep_the_features(cls: str) -> None:
    with pytest.raises(RecordingError, match=rf"^the recording is of {cls}, .*Formats without such names"):
        gguf_names(cls, ["model.layers.0.self_attn.q_proj"])
