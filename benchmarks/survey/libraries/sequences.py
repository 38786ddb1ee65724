"""Models of sound and of sequences: separators, recognizers, state spaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.survey.libraries.entry import Entry, bare_package, entry, ids, numbers

WAVE, MEL, X = numbers(2, 1, 1600), numbers(2, 30, 40), numbers(2, 9, 32)
CHANNELS = numbers(2, 16, 50)


def speechbrain() -> Iterator[Entry]:
    """Norms and Linears of speech, of numbers, of complex numbers and of quaternions."""
    for package in ("speechbrain", "speechbrain.nnet"):
        bare_package(package)  # they import torchaudio
    from speechbrain.nnet import linear, normalization

    read = numbers(2, 30, 40).abs()
    plain = {"LayerNorm": read, "InstanceNorm1d": read, "BatchNorm1d": read, "GroupNorm": read, "PCEN": read}
    for name, x in plain.items():
        options: dict[str, Any] = {"num_groups": 4} if name == "GroupNorm" else {}
        norm = lambda name=name, options=options: getattr(normalization, name)(input_size=40, **options)
        yield entry(name, lambda norm=norm: nn.Sequential(linear.Linear(40, input_size=40), norm()), x)
    image = numbers(2, 12, 10, 8)
    for name in ("BatchNorm2d", "InstanceNorm2d"):
        yield entry(name, lambda name=name: nn.Sequential(getattr(normalization, name)(input_size=8)), image)
    yield from _of_several_parts(read)


def _of_several_parts(read: torch.Tensor) -> Iterator[Entry]:
    from speechbrain.nnet.complex_networks.c_linear import CLinear
    from speechbrain.nnet.complex_networks.c_normalization import CBatchNorm, CLayerNorm
    from speechbrain.nnet.quaternion_networks.q_linear import QLinear
    from speechbrain.nnet.quaternion_networks.q_normalization import QBatchNorm

    complex_linear = lambda: CLinear(20, input_shape=[None, None, 40], bias=False)
    yield entry("CLayerNorm", lambda: nn.Sequential(complex_linear(), CLayerNorm(input_size=40)), read)
    yield entry("CBatchNorm", lambda: nn.Sequential(complex_linear(), CBatchNorm(input_size=40)), read)
    quaternion = lambda: QLinear(10, input_shape=[None, None, 40], bias=False)
    yield entry("QBatchNorm", lambda: nn.Sequential(quaternion(), QBatchNorm(input_size=40)), read)


def asteroid() -> Iterator[Entry]:
    """Separators of speech with norms over channels and time."""
    bare_package("asteroid")
    from asteroid.masknn import norms
    from asteroid.masknn.convolutional import TDConvNet
    from asteroid.masknn.recurrent import DPRNN

    for norm in ("gLN", "cLN", "cgLN", "bN"):
        yield entry(
            f"TDConvNet.{norm}",
            lambda norm=norm: TDConvNet(
                16, 2, n_blocks=2, n_repeats=1, bn_chan=8, hid_chan=16, norm_type=norm
            ),
            CHANNELS,
        )
    for norm in ("gLN", "cLN"):
        yield entry(
            f"DPRNN.{norm}",
            lambda norm=norm: DPRNN(16, 2, bn_chan=8, hid_size=8, chunk_size=10, n_repeats=1, norm_type=norm),
            CHANNELS,
        )
    yield entry(
        "FeatsGlobLN", lambda: nn.Sequential(nn.Conv2d(3, 8, 3), norms.FeatsGlobLN(8)), numbers(2, 3, 12, 12)
    )
    yield entry(
        "BatchNorm", lambda: nn.Sequential(nn.Conv2d(3, 8, 3), norms.BatchNorm(8)), numbers(2, 3, 12, 12)
    )


def conformer() -> Iterator[Entry]:
    """Convolution and attention in turn."""
    from conformer import Conformer, ConformerConvModule

    yield entry("Conformer", lambda: Conformer(dim=32, depth=2, heads=2, dim_head=16), X)
    yield entry("Conv.causal", lambda: ConformerConvModule(dim=32, causal=True), X)


def bs_roformer() -> Iterator[Entry]:
    """Separation of music by bands."""
    bare_package("bs_roformer")
    from bs_roformer.bs_roformer import BSRoformer

    sizes: dict[str, Any] = dict(
        dim=16,
        depth=1,
        heads=2,
        dim_head=8,
        flash_attn=False,
        stft_n_fft=64,
        stft_win_length=64,
        stft_hop_length=16,
        freqs_per_bands=(11, 11, 11),
    )
    yield entry(
        "BSRoformer", lambda: BSRoformer(**sizes, multi_stft_resolution_loss_weight=0.0), numbers(2, 640)
    )


def snac() -> Iterator[Entry]:
    """A codec with local attention."""
    from snac import SNAC

    make = lambda: SNAC(
        encoder_dim=16,
        encoder_rates=[2, 2],
        latent_dim=64,
        decoder_dim=64,
        decoder_rates=[2, 2],
        attn_window_size=4,
        codebook_size=16,
        codebook_dim=4,
        vq_strides=[2, 1],
    )
    yield entry("SNAC", make, numbers(2, 1, 256))


def xlstm() -> Iterator[Entry]:
    """xLSTM, with norms by head."""
    from xlstm import (
        FeedForwardConfig,
        mLSTMBlockConfig,
        mLSTMLayerConfig,
        sLSTMBlockConfig,
        sLSTMLayerConfig,
        xLSTMBlockStack,
        xLSTMBlockStackConfig,
    )

    def stack(slstm_at: list[int]) -> nn.Module:
        config = xLSTMBlockStackConfig(
            mlstm_block=mLSTMBlockConfig(
                mlstm=mLSTMLayerConfig(conv1d_kernel_size=4, qkv_proj_blocksize=4, num_heads=4)
            ),
            slstm_block=sLSTMBlockConfig(
                slstm=sLSTMLayerConfig(backend="vanilla", num_heads=4, conv1d_kernel_size=4),
                feedforward=FeedForwardConfig(proj_factor=1.3, act_fn="gelu"),
            ),
            context_length=16,
            num_blocks=2,
            embedding_dim=32,
            slstm_at=slstm_at,
        )
        return xLSTMBlockStack(config)

    yield entry("mLSTM", lambda: stack([]), X)
    yield entry("sLSTM", lambda: stack([1]), X)


def mambapy() -> Iterator[Entry]:
    """Mamba in plain torch."""
    from mambapy.mamba import Mamba, MambaConfig

    yield entry("Mamba", lambda: Mamba(MambaConfig(d_model=32, n_layers=2, d_state=4)), X)
    yield entry(
        "Mamba.inner", lambda: Mamba(MambaConfig(d_model=32, n_layers=2, d_state=4, inner_layernorms=True)), X
    )


def titans() -> Iterator[Entry]:
    """Memory as a net."""
    from titans_pytorch import MemoryAsContextTransformer

    make = lambda: MemoryAsContextTransformer(
        num_tokens=64,
        dim=16,
        depth=1,
        heads=2,
        dim_head=8,
        segment_len=8,
        num_persist_mem_tokens=2,
        num_longterm_mem_tokens=2,
    )
    yield entry("MAC", make, ids(2, 16))


def chronos() -> Iterator[Entry]:
    """A forecaster with a norm of each series."""
    from chronos.chronos_bolt import InstanceNorm, ResidualBlock

    yield entry("ResidualBlock", lambda: ResidualBlock(32, 48, 16, "relu", use_layer_norm=True), X)
    yield Entry("InstanceNorm", lambda: nn.Sequential(InstanceNorm()), lambda model: model(numbers(4, 48))[0])


LIBRARIES = {
    "speechbrain": speechbrain,
    "asteroid": asteroid,
    "conformer": conformer,
    "bs-roformer": bs_roformer,
    "snac": snac,
    "xlstm": xlstm,
    "mambapy": mambapy,
    "titans-pytorch": titans,
    "chronos-forecasting": chronos,
}
