"""Models of rows of numbers and of time series."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.survey.libraries.entry import Entry, entry, ids, numbers

ROWS = numbers(32, 6)
CATEGORIES = ids(32, 3, high=4, low=0)
SERIES = numbers(4, 48, 3)


def tabnet() -> Iterator[Entry]:
    """TabNet with its ghost batch norm."""
    from pytorch_tabnet.tab_network import TabNet, TabNetNoEmbeddings

    matrix = torch.eye(6)
    make = lambda: TabNet(6, 3, n_d=4, n_a=4, n_steps=2, group_attention_matrix=matrix)
    yield entry("TabNet", make, ROWS)
    yield entry("TabNet.train", make, ROWS, train=True)
    small = lambda: TabNetNoEmbeddings(
        6, 3, n_d=4, n_a=4, n_steps=2, virtual_batch_size=8, group_attention_matrix=matrix
    )
    yield entry("NoEmbeddings.train", small, ROWS, train=True)


def rtdl() -> Iterator[Entry]:
    """ResNet, MLP and FT-Transformer of rows."""
    from rtdl_revisiting_models import MLP, FTTransformer, ResNet

    yield entry("MLP", lambda: MLP(d_in=6, d_out=1, n_blocks=2, d_block=16, dropout=0.0), ROWS)
    net = lambda: ResNet(
        d_in=6, d_out=1, n_blocks=2, d_block=16, d_hidden_multiplier=2.0, dropout1=0.0, dropout2=0.0
    )
    yield entry("ResNet", net, ROWS)
    yield entry("ResNet.train", net, ROWS, train=True)
    defaults = lambda: FTTransformer(
        n_cont_features=6,
        cat_cardinalities=[4, 4, 4],
        d_out=1,
        n_blocks=2,
        d_block=16,
        attention_n_heads=2,
        attention_dropout=0.0,
        ffn_d_hidden_multiplier=2.0,
        ffn_dropout=0.0,
        residual_dropout=0.0,
    )
    yield entry("FTTransformer", defaults, ROWS, CATEGORIES)


def rtdl_num_embeddings() -> Iterator[Entry]:
    """A Linear for each feature."""
    import rtdl_num_embeddings as rtdl

    yield entry(
        "Linear", lambda: nn.Sequential(rtdl.LinearReLUEmbeddings(6, 8), nn.Flatten(), nn.Linear(48, 2)), ROWS
    )
    periodic = lambda: rtdl.PeriodicEmbeddings(6, 8, lite=False)
    yield entry("Periodic", lambda: nn.Sequential(periodic(), nn.Flatten(), nn.Linear(48, 2)), ROWS)


def tabm() -> Iterator[Entry]:
    """An ensemble in one net."""
    from tabm import TabM

    for arch in ("tabm", "tabm-mini", "tabm-packed"):
        make = lambda arch=arch: TabM.make(
            n_num_features=6, d_out=1, k=4, n_blocks=2, d_block=16, arch_type=arch
        )
        yield entry(arch, make, ROWS)


def tab_transformer() -> Iterator[Entry]:
    """Transformers over categories."""
    from tab_transformer_pytorch import FTTransformer, TabTransformer

    sizes: dict[str, Any] = dict(categories=(4, 4, 4), num_continuous=6, dim=16, depth=2, heads=2)
    yield entry(
        "TabTransformer", lambda: TabTransformer(**sizes, dim_out=1, mlp_act=nn.ReLU()), CATEGORIES, ROWS
    )
    yield entry("FTTransformer", lambda: FTTransformer(**sizes, dim_out=1), CATEGORIES, ROWS)


def itransformer() -> Iterator[Entry]:
    """Transformers over variates, with reversible instance norms."""
    from iTransformer import iTransformer, iTransformer2D

    sizes: dict[str, Any] = dict(
        num_variates=3, lookback_len=48, pred_length=12, dim=32, depth=2, heads=2, dim_head=16
    )
    yield entry("iTransformer", lambda: iTransformer(**sizes, use_reversible_instance_norm=True), SERIES)
    yield entry("plain", lambda: iTransformer(**sizes), SERIES)
    yield entry("2D", lambda: iTransformer2D(num_time_tokens=4, **sizes), SERIES)


def gluonts() -> Iterator[Entry]:
    """Forecasters with scalers."""
    from gluonts.torch.model.patch_tst.module import PatchTSTModel

    past = numbers(4, 32)
    model = lambda: PatchTSTModel(
        prediction_length=8,
        context_length=32,
        patch_len=8,
        stride=4,
        padding_patch="end",
        d_model=16,
        nhead=2,
        dim_feedforward=32,
        num_feat_dynamic_real=0,
        dropout=0.0,
        activation="relu",
        norm_first=True,
        num_encoder_layers=2,
        scaling="mean",
    )
    yield entry("PatchTST", model, past, torch.ones_like(past))


def pytorch_tcn() -> Iterator[Entry]:
    """Temporal convolutions."""
    from pytorch_tcn import TCN

    for norm in ("batch_norm", "layer_norm"):
        yield entry(norm, lambda norm=norm: TCN(3, [16, 16], use_norm=norm), SERIES.mT)


def stable_baselines() -> Iterator[Entry]:
    """Policies of reinforcement learning."""
    import numpy as np
    from gymnasium import spaces
    from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy

    space, actions = spaces.Box(-1, 1, (6,), np.float32), spaces.Discrete(3)
    yield entry("MLP", lambda: ActorCriticPolicy(space, actions, lambda _: 1e-3), ROWS)
    image = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    pixels = torch.randint(0, 255, (8, 3, 36, 36), generator=torch.Generator().manual_seed(0))
    yield entry("CNN", lambda: ActorCriticCnnPolicy(image, actions, lambda _: 1e-3), pixels)


def zuko() -> Iterator[Entry]:
    """Normalizing flows, whose "norm" is none."""
    import zuko.nn

    yield entry("MLP", lambda: zuko.nn.MLP(6, 3, (16, 16), normalize=True), ROWS)
    yield entry("MaskedMLP", lambda: zuko.nn.MaskedMLP(torch.ones(3, 6) > 0, (16, 16)), ROWS)


def nflows() -> Iterator[Entry]:
    """Flows with batch norms that can be undone, and actnorms."""
    from nflows.transforms import ActNorm, BatchNorm

    for cls in (ActNorm, BatchNorm):
        yield entry(cls.__name__, lambda cls=cls: nn.Sequential(nn.Linear(6, 6), _First(cls(6))), ROWS)
        yield entry(
            f"{cls.__name__}.train",
            lambda cls=cls: nn.Sequential(nn.Linear(6, 6), _First(cls(6))),
            ROWS,
            train=True,
        )


class _First(nn.Module):
    """The first of what a module gives."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)[0]


LIBRARIES = {
    "pytorch-tabnet": tabnet,
    "rtdl_revisiting_models": rtdl,
    "rtdl_num_embeddings": rtdl_num_embeddings,
    "tabm": tabm,
    "tab-transformer-pytorch": tab_transformer,
    "iTransformer": itransformer,
    "gluonts": gluonts,
    "pytorch-tcn": pytorch_tcn,
    "stable-baselines3": stable_baselines,
    "zuko": zuko,
    "nflows": nflows,
}
