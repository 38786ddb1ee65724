"""Models of text: x-transformers and its relatives, and what serves trained language models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.survey.libraries.entry import Entry, entry, ids, numbers, padded

REAL = padded(9, 5)
X, TOKENS, WIDE = numbers(2, 9, 32), ids(2, 9), numbers(2, 16, 32)


def x_transformers() -> Iterator[Entry]:
    """Attention layers with every norm that the library has."""
    import x_transformers as x

    def decoder(**options: Any) -> nn.Module:
        layers = x.Decoder(dim=32, depth=2, heads=2, attn_dim_head=16, **options)
        return x.TransformerWrapper(num_tokens=64, max_seq_len=16, attn_layers=layers)

    for name in ("use_rmsnorm", "use_simple_rmsnorm", "use_scalenorm", "sandwich_norm", "macaron"):
        yield entry(f"decoder.{name}", lambda name=name: decoder(**{name: True}), TOKENS)
    yield entry("decoder", decoder, TOKENS)
    yield entry("decoder.mask", decoder, TOKENS, mask=REAL, real=REAL)
    yield entry("decoder.glu", lambda: decoder(ff_glu=True, ff_swish=True, rotary_pos_emb=True), TOKENS)
    yield entry("decoder.qk", lambda: decoder(attn_qk_norm=True, attn_qk_norm_dim_scale=True), TOKENS)
    yield entry("decoder.post", lambda: decoder(pre_norm=False), TOKENS)
    yield entry("decoder.unit_offset", lambda: decoder(use_rmsnorm=True, norm_add_unit_offset=True), TOKENS)
    encoder = lambda **options: x.Encoder(dim=32, depth=2, heads=2, attn_dim_head=16, **options)
    yield entry("encoder.mask", encoder, X, mask=REAL, real=REAL)
    yield entry(
        "encoder.adaptive",
        lambda: encoder(use_adaptive_rmsnorm=True, dim_condition=8),
        X,
        condition=numbers(2, 8),
    )
    yield entry(
        "encoder.adaptive_layernorm",
        lambda: encoder(use_adaptive_layernorm=True, dim_condition=8),
        X,
        condition=numbers(2, 8),
    )
    yield entry(
        "decoder.cross", lambda: x.Decoder(dim=32, depth=1, heads=2, cross_attend=True), X, context=WIDE
    )
    yield entry(
        "vit",
        lambda: x.ViTransformerWrapper(image_size=16, patch_size=4, num_classes=5, attn_layers=encoder()),
        numbers(2, 3, 16, 16),
    )


def performer() -> Iterator[Entry]:
    """Linear attention, with each of its three norms."""
    from performer_pytorch import Performer, PerformerLM

    yield entry("Performer", lambda: Performer(dim=32, depth=2, heads=2, dim_head=16), X)
    yield entry(
        "Performer.scale", lambda: Performer(dim=32, depth=2, heads=2, dim_head=16, use_scalenorm=True), X
    )
    yield entry(
        "Performer.rezero", lambda: Performer(dim=32, depth=2, heads=2, dim_head=16, use_rezero=True), X
    )
    yield entry(
        "PerformerLM",
        lambda: PerformerLM(
            num_tokens=64, max_seq_len=16, dim=32, depth=2, heads=2, dim_head=16, causal=False
        ),
        ids(2, 16),
        mask=padded(16, 9),
        real=padded(16, 9),
    )


def linformer() -> Iterator[Entry]:
    """Attention through a low rank."""
    from linformer import Linformer, LinformerLM

    yield entry("Linformer", lambda: Linformer(dim=32, seq_len=16, depth=2, heads=2, k=8), WIDE)
    yield entry(
        "LM", lambda: LinformerLM(num_tokens=64, dim=32, seq_len=16, depth=2, heads=2, k=8), ids(2, 16)
    )


def curated_transformers() -> Iterator[Entry]:
    """BERT, RoBERTa, Llama, Falcon and GPT-NeoX of another library."""
    from curated_transformers.layers import AttentionMask
    from curated_transformers.models import BERTConfig, BERTEncoder, LlamaConfig, LlamaDecoder

    sizes: dict[str, Any] = dict(hidden_width=32, intermediate_width=48, n_hidden_layers=2, n_pieces=64)
    mask = lambda: AttentionMask(REAL)
    yield Entry(
        "BERT",
        lambda: BERTEncoder(
            BERTConfig(embedding_width=32, n_attention_heads=2, model_max_length=16, **sizes)
        ),
        lambda model: model(TOKENS, mask()).all_outputs,
        {"*": REAL},
    )
    yield Entry(
        "Llama",
        lambda: LlamaDecoder(LlamaConfig(n_query_heads=2, n_key_value_heads=1, dtype=torch.float32, **sizes)),
        lambda model: model(TOKENS, mask()).all_outputs,
        {"*": REAL},
    )


def litgpt() -> Iterator[Entry]:
    """The models of LitGPT, by its own names."""
    from litgpt import GPT, Config

    def gpt(**options: Any) -> nn.Module:
        sizes: dict[str, Any] = dict(n_layer=2, n_head=2, n_embd=32, block_size=16, padded_vocab_size=64)
        return GPT(Config(**sizes | options))

    yield entry("LayerNorm", gpt, TOKENS)
    yield entry(
        "RMSNorm",
        lambda: gpt(norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", intermediate_size=48, bias=False),
        TOKENS,
    )
    yield entry(
        "Gemma",
        lambda: gpt(norm_class_name="RMSNorm", mlp_class_name="GemmaMLP", intermediate_size=48),
        TOKENS,
    )
    yield entry("qk", lambda: gpt(norm_class_name="RMSNorm", norm_qk=True), TOKENS)


def _stirred(model: nn.Module, part: str) -> nn.Module:
    """A model whose adapters do something."""
    for name, parameter in model.named_parameters():
        if part in name:
            nn.init.normal_(parameter, std=0.2)
    return model


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )


def peft() -> Iterator[Entry]:
    """A Llama under each adapter."""
    import peft as p

    targets: dict[str, Any] = dict(target_modules=["q_proj", "v_proj"])
    configs: dict[str, Any] = {
        "LoRA": p.LoraConfig(r=4, init_lora_weights=False, **targets),
        "DoRA": p.LoraConfig(r=4, use_dora=True, init_lora_weights=False, **targets),
        "rsLoRA": p.LoraConfig(r=4, use_rslora=True, init_lora_weights=False, **targets),
        "IA3": p.IA3Config(
            feedforward_modules=["down_proj"], target_modules=["k_proj", "down_proj"], init_ia3_weights=False
        ),
        "OFT": p.OFTConfig(r=0, oft_block_size=8, **targets),
        "BOFT": p.BOFTConfig(boft_block_size=4, **targets),
        "LoHa": p.LoHaConfig(r=4, init_weights=False, **targets),
        "LoKr": p.LoKrConfig(r=4, init_weights=False, **targets),
        "AdaLoRA": p.AdaLoraConfig(total_step=10, init_r=4, **targets),
        "VeRA": p.VeraConfig(r=4, target_modules=["q_proj"]),
        "FourierFT": p.FourierFTConfig(n_frequency=10, **targets),
        "HRA": p.HRAConfig(r=4, **targets),
        "LNTuning": p.LNTuningConfig(target_modules=["input_layernorm"]),
        "Prefix": p.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    }
    for name, config in configs.items():
        yield entry(
            name,
            lambda config=config: _stirred(p.get_peft_model(_llama(), config), "lora_B"),
            input_ids=TOKENS,
        )
    merged = lambda: p.get_peft_model(_llama(), configs["LoRA"]).merge_and_unload()
    yield entry("LoRA.merged", merged, input_ids=TOKENS)


def sentence_transformers() -> Iterator[Entry]:
    """A tiny BERT, pooled, projected and normalized, on padded text."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, LayerNorm, Normalize, Pooling
    from transformers import BertConfig, BertModel

    class Words(nn.Module):
        """A transformer without a tokenizer."""

        def __init__(self) -> None:
            super().__init__()
            sizes: dict[str, Any] = dict(vocab_size=64, hidden_size=32, intermediate_size=48)
            self.model = BertModel(BertConfig(num_hidden_layers=2, num_attention_heads=2, **sizes))

        def forward(self, features: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
            read = {name: features[name] for name in ("input_ids", "attention_mask")}
            features["token_embeddings"] = self.model(**read).last_hidden_state
            return features

    inputs = {"input_ids": TOKENS, "attention_mask": REAL.long()}
    for name, last in {
        "Normalize": Normalize,
        "LayerNorm": lambda: LayerNorm(32),
        "Dense": lambda: Dense(32, 8),
    }.items():
        make = lambda last=last: SentenceTransformer(modules=[Words(), Pooling(32), last()], device="cpu")
        yield entry(name, make, inputs, real={"0*": REAL})


def loralib() -> Iterator[Entry]:
    """LoRA as first published: layers that are Linears themselves."""
    import loralib as lora

    def net() -> nn.Module:
        merged = lora.MergedLinear(16, 24, r=2, enable_lora=[True, False, True])
        return _stirred(nn.Sequential(lora.Linear(32, 16, r=4), nn.LayerNorm(16), merged), "lora_B")

    yield entry("train", net, X, train=True)
    yield entry("merged", net, X)


def fair_esm() -> Iterator[Entry]:
    """Protein models with a LayerNorm of their own, on padded sequences."""
    from esm.data import Alphabet
    from esm.model.esm2 import ESM2

    alphabet = Alphabet.from_architecture("ESM-1b")
    tokens = torch.where(REAL, ids(2, 9, low=4, high=23), torch.tensor(alphabet.padding_idx))
    make = lambda: ESM2(num_layers=2, embed_dim=32, attention_heads=2, alphabet=alphabet)
    yield entry("ESM2", make, tokens, real=None)


LIBRARIES = {
    "x-transformers": x_transformers,
    "performer-pytorch": performer,
    "linformer": linformer,
    "curated-transformers": curated_transformers,
    "litgpt": litgpt,
    "peft": peft,
    "sentence-transformers": sentence_transformers,
    "loralib": loralib,
    "fair-esm": fair_esm,
}
