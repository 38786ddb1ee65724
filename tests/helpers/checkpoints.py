"""Tiny checkpoints with tokenizers and processors, made in a folder of the test's own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers.utils import logging as foreign

foreign.disable_progress_bar()
logging.getLogger("transformers").setLevel(logging.ERROR)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "</s>"]
_TEXT = "the a cat dog sat ran on mat hill and then it was not good bad very . , !"
WORDS = _TEXT.split()
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def words_tokenizer(*, pad: bool = True, bert: bool = True, side: str = "right", most: int = 40) -> Any:
    """A tokenizer of whole words; with ``bert`` it puts [CLS] and [SEP] around a text."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names: dict[str, Any] = {"unk_token": "[UNK]", "eos_token": "</s>"}
    if pad:
        names["pad_token"] = "[PAD]"
    if bert:
        inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=most, padding_side=side, **names
    )


def save(folder: Path, model: Any, *parts: Any) -> str:
    """Save a model and its tokenizer or processor; return the folder as people type it."""
    model.save_pretrained(folder)
    for part in parts:
        part.save_pretrained(folder)
    return str(folder)


def bert(folder: Path, **tokenizer: Any) -> str:
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=30, max_position_embeddings=40, **SIZE)
    return save(folder, transformers.BertModel(config), words_tokenizer(**tokenizer))


def gpt2(folder: Path) -> str:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=30, n_positions=24, bos_token_id=4, eos_token_id=4
    )
    tokenizer = words_tokenizer(pad=False, bert=False, side="left", most=10**30)
    return save(folder, transformers.GPT2LMHeadModel(config), tokenizer)


def llama(folder: Path, template: str | None = None) -> str:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=30, max_position_embeddings=32, **SIZE)
    tokenizer = words_tokenizer(bert=False, most=10**30)
    tokenizer.chat_template = template
    return save(folder, transformers.LlamaForCausalLM(config), tokenizer)


def t5(folder: Path) -> str:
    torch.manual_seed(0)
    config = transformers.T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=30, decoder_start_token_id=0
    )
    return save(folder, transformers.T5ForConditionalGeneration(config), words_tokenizer(bert=False))


def vit(folder: Path, *, processor: bool = True) -> str:
    torch.manual_seed(0)
    config = transformers.ViTConfig(image_size=32, patch_size=8, **SIZE)
    parts = [image_processor()] if processor else []
    return save(folder, transformers.ViTForImageClassification(config), *parts)


def image_processor() -> Any:
    cls = getattr(transformers, "ViTImageProcessorPil", transformers.ViTImageProcessor)
    return cls(size={"height": 32, "width": 32})


def clip(folder: Path) -> str:
    torch.manual_seed(0)
    text = {"vocab_size": 30, "max_position_embeddings": 20, "eos_token_id": 4, **SIZE}
    vision = {"image_size": 32, "patch_size": 8, **SIZE}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    return save(folder, transformers.CLIPModel(config), words_tokenizer(bert=False), image_processor())


def llava(folder: Path, template: str | None = None, *, processor: bool = True, side: str = "left") -> str:
    """Images of 16 tokens each inside a text; token 25 stands for them."""
    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig(image_size=32, patch_size=8, projection_dim=8, **SIZE)
    text = transformers.LlamaConfig(vocab_size=30, max_position_embeddings=64, **SIZE)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=25, vision_feature_layer=-1
    )
    tokenizer = words_tokenizer(bert=False, side=side, most=10**30)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    part = tokenizer
    if processor:
        part = transformers.LlavaProcessor(
            clip_image_processor(), tokenizer, patch_size=8, vision_feature_select_strategy="default",
            num_additional_image_tokens=1, chat_template=template,
        )  # fmt: skip
    return save(folder, transformers.LlavaForConditionalGeneration(config), part)


def clip_image_processor() -> Any:
    cls = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    return cls(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def wav2vec2(folder: Path) -> str:
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        vocab_size=30, conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, **SIZE,
    )  # fmt: skip
    return save(folder, transformers.Wav2Vec2Model(config), transformers.Wav2Vec2FeatureExtractor())


def whisper(folder: Path) -> str:
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=30, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_source_positions=50,
        decoder_start_token_id=7, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    extractor = transformers.WhisperFeatureExtractor(chunk_length=1)
    return save(folder, transformers.WhisperForConditionalGeneration(config), extractor)
