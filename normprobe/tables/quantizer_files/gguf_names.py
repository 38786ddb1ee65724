"""What llama.cpp calls the weight of a layer of transformers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

from normprobe.errors import RecordingError

# By how the classes of transformers begin. Only those whose conversion leaves the input features of every
# Linear in order, and each Linear whole: that of DeepSeek cuts one in two, that of Qwen3.5 reorders features.
_ARCHITECTURES = {
    "Arcee": "arcee",
    "Bert": "bert",
    "Bloom": "bloom",
    "Cohere": "command-r",
    "Cohere2": "cohere2",
    "Ernie4_5": "ernie4_5",
    "Exaone4": "exaone4",
    "Falcon": "falcon",
    "GPT2": "gpt2",
    "GPTBigCode": "starcoder",
    "GPTNeoX": "gptneox",
    "Gemma": "gemma",
    "Gemma2": "gemma2",
    "Gemma3": "gemma3",
    "Gemma3Text": "gemma3",
    "Glm": "chatglm",
    "Glm4": "glm4",
    "Granite": "granite",
    "GraniteMoe": "granitemoe",
    "HunYuanDenseV1": "hunyuan-dense",
    "Llama": "llama",
    "Mistral": "llama",
    "Mixtral": "llama",
    "Mpt": "mpt",
    "Nemotron": "nemotron",
    "Olmo": "olmo",
    "Olmo2": "olmo2",
    "Olmoe": "olmoe",
    "Phi": "phi2",
    "Phi3": "phi3",
    "Phimoe": "phimoe",
    "Qwen2": "qwen2",
    "Qwen2Moe": "qwen2moe",
    "Qwen3": "qwen3",
    "Qwen3Moe": "qwen3moe",
    "SeedOss": "seed_oss",
    "SmolLM3": "smollm3",
    "StableLm": "stablelm",
    "Starcoder2": "starcoder2",
}
_CLASS = re.compile(r"(?P<family>\w+?)(ForCausalLM|LMHeadModel|ForMaskedLM|ForSequenceClassification|Model)")
_EXPERT = re.compile(r"(?P<before>.*\.experts)\.(?P<expert>\d+)\.(?P<after>.+)")


class GgufName(NamedTuple):
    """Where the statistics of a layer belong.

    Attributes:
        weight: such as ``blk.0.attn_q.weight``; of all experts the same.
        expert: which of the experts that share the weight, or None.
    """

    weight: str
    expert: int | None


def gguf_names(model: str, layers: Iterable[str]) -> dict[str, GgufName]:
    """The names of those layers that have one.

    Args:
        model: the class of the model.
        layers: names of Linear layers.

    Raises:
        RecordingError: llama.cpp has no names for models of this class, or the package ``gguf`` is missing
            or too old.
    """
    layers = list(layers)
    blocks = 1 + max((int(number) for layer in layers for number in re.findall(r"\d+", layer)), default=0)
    known = _name_map(_architecture(model), blocks)
    found = {}
    for layer in layers:
        expert = _EXPERT.fullmatch(layer)
        key = layer if expert is None else f"{expert['before']}.{expert['after']}"
        # The base model alone, as of AutoModel, lacks the first part of the names that the map has.
        weights = [known.get_name(f"{prefix}{key}") for prefix in ("", "model.", "transformer.")]
        weight = next((name for name in [*weights, known.get_name(_without_base(key))] if name), None)
        if weight is not None:
            found[layer] = GgufName(f"{weight}.weight", expert and int(expert["expert"]))
    return found


def _without_base(layer: str) -> str:
    """A name without the model's own prefix, as conversion takes BERT's off."""
    return layer.removeprefix("bert.")


def _architecture(model: str) -> str:
    """The architecture of a class of transformers.

    Raises:
        RecordingError: none is known for it.
    """
    parts = _CLASS.fullmatch(model)
    if parts is None or parts["family"] not in _ARCHITECTURES:
        raise RecordingError(
            f"the recording is of {model}, whose weights normprobe has no GGUF names for; it has them for "
            f"{', '.join(_ARCHITECTURES)} of transformers. Formats without such names: act-scales, awq, "
            "llm-compressor"
        )
    return _ARCHITECTURES[parts["family"]]


@cache
def _name_map(architecture: str, blocks: int) -> Any:
    """The map of gguf from names of transformers to those of llama.cpp.

    Raises:
        RecordingError: the package is missing or does not know the architecture.
    """
    gguf = gguf_package()
    for key, name in gguf.MODEL_ARCH_NAMES.items():
        if name == architecture:
            return gguf.get_tensor_name_map(key, blocks)
    raise RecordingError(
        f"the installed gguf does not know the architecture {architecture}; pip install -U gguf"
    )


def gguf_package() -> Any:
    """The package ``gguf``, which an extra installs.

    Raises:
        RecordingError: it is missing.
    """
    try:
        import gguf
    except ImportError as cause:
        raise RecordingError("an imatrix needs the names that gguf has: pip install gguf") from cause
    return gguf
