"""Tiny models with experts, made from the configuration classes of transformers, with weights that differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

_COMMON: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "intermediate_size": 48,
    "head_dim": 8,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


def _need_transformers_5() -> None:
    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("transformers 4 holds these experts in lists of modules, and calls them otherwise")


def _made(config: Any, model: str) -> Any:
    _need_transformers_5()
    torch.manual_seed(0)
    made = getattr(transformers, model)(config).eval()
    # Fresh weights are so small that experts hardly differ, and biases are 0.
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def mixtral(**options: Any) -> Any:
    return _made(transformers.MixtralConfig(**{**_COMMON, **options}), "MixtralForCausalLM")


def qwen3_moe(**options: Any) -> Any:
    own = {"num_local_experts": 8, "moe_intermediate_size": 24}
    return _made(transformers.Qwen3MoeConfig(**{**_COMMON, **own, **options}), "Qwen3MoeForCausalLM")


def deepseek_v3(**options: Any) -> Any:
    own = {
        "num_key_value_heads": 4,
        "n_routed_experts": 8,
        "moe_intermediate_size": 24,
        "n_group": 2,
        "topk_group": 1,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    }
    common = {name: value for name, value in _COMMON.items() if name not in ("head_dim", "num_local_experts")}
    return _made(transformers.DeepseekV3Config(**{**common, **own, **options}), "DeepseekV3ForCausalLM")


def gpt_oss(**options: Any) -> Any:
    # Its own rotary scaling warns of so few positions.
    own = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    return _made(transformers.GptOssConfig(**{**_COMMON, **own, **options}), "GptOssForCausalLM")


def llama4(**options: Any) -> Any:
    own = {"num_experts_per_tok": 1, "intermediate_size_mlp": 48}
    return _made(transformers.Llama4TextConfig(**{**_COMMON, **own, **options}), "Llama4ForCausalLM")


def dbrx(**options: Any) -> Any:
    _need_transformers_5()  # its configuration, too, takes other arguments
    config = transformers.DbrxConfig(
        vocab_size=99,
        d_model=32,
        n_layers=2,
        n_heads=4,
        max_seq_len=64,
        attn_config={"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
        ffn_config={"hidden_size": 32, "ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
        **options,
    )
    return _made(config, "DbrxForCausalLM")


def jetmoe(**options: Any) -> Any:
    common = {n: v for n, v in _COMMON.items() if n not in ("num_attention_heads", "head_dim")}
    return _made(transformers.JetMoeConfig(**{**common, "kv_channels": 8, **options}), "JetMoeForCausalLM")


def switch(**options: Any) -> Any:
    own = {
        "vocab_size": 99,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "num_experts": 4,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
        "expert_capacity": 64,
        "decoder_start_token_id": 0,
    }
    return _made(
        transformers.SwitchTransformersConfig(**{**own, **options}),
        "SwitchTransformersForConditionalGeneration",
    )


DECORATED: dict[str, Callable[..., Any]] = {
    "mixtral": mixtral,
    "qwen3_moe": qwen3_moe,
    "deepseek_v3": deepseek_v3,
    "gpt_oss": gpt_oss,
}
OTHERS: dict[str, Callable[..., Any]] = {"llama4": llama4, "dbrx": dbrx, "jetmoe": jetmoe}


def batch(seed: int = 1, examples: int = 3, time: int = 10, *, left: bool = False) -> dict[str, Tensor]:
    """Ids with a mask: the second example has three tokens less, the third five."""
    made = torch.randint(1, 99, (examples, time), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(made)
    for example, pads in enumerate((0, 3, 5)[:examples]):
        if pads:
            mask[example, slice(0, pads) if left else slice(time - pads, time)] = 0
    return {"input_ids": made, "attention_mask": mask}


class ListOfExperts(nn.Module):
    """Experts as modules of a list, to which this module takes the tokens itself."""

    def __init__(self, experts: int = 2, choose: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.gate = nn.Linear(4, experts)
        self.experts = nn.ModuleList([nn.Linear(4, 4) for _ in range(experts)])
        self._choose = choose or (lambda rows: self.gate(rows).argmax(-1))

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        rows = self.norm(x).reshape(-1, 4)
        chosen, made = self._choose(rows), torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            index = (chosen == number).nonzero()[:, 0]
            if len(index):
                made[index] = expert(rows[index])
        return made.view_as(x)


def batches() -> list[dict[str, Tensor]]:
    """Two batches, as a command line names them."""
    return [batch(1), batch(2)]
