"""Models of diffusion and of codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.survey.libraries.entry import Entry, bare_package, entry, numbers, padded

T, LATENT, TEXT = torch.tensor([3, 500]), numbers(2, 4, 16, 16), numbers(2, 5, 32)
WORDS = padded(5, 3)


_BLOCKS: dict[str, Any] = dict(
    sample_size=16,
    block_out_channels=(16, 32),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=8,
)
_UNET: dict[str, Any] = _BLOCKS | dict(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=32,
)
_SMALL: dict[str, Any] = dict(num_attention_heads=2, num_layers=1, in_channels=4)
_JOINT: dict[str, Any] = _SMALL | dict(attention_head_dim=16, joint_attention_dim=32, pooled_projection_dim=8)
_PIXART: dict[str, Any] = _SMALL | dict(
    attention_head_dim=16,
    sample_size=16,
    cross_attention_dim=32,
    caption_channels=32,
    use_additional_conditions=False,
)
_LTX: dict[str, Any] = _SMALL | dict(
    out_channels=4, attention_head_dim=8, cross_attention_dim=16, caption_channels=32
)
_WAN: dict[str, Any] = _SMALL | dict(
    attention_head_dim=12, out_channels=4, text_dim=32, freq_dim=16, ffn_dim=32
)
_EFFICIENT = ("ResBlock", "EfficientViTBlock")
_DC: dict[str, Any] = dict(
    in_channels=3,
    latent_channels=4,
    attention_head_dim=8,
    encoder_block_types=_EFFICIENT,
    decoder_block_types=_EFFICIENT,
    encoder_block_out_channels=(16, 16),
    decoder_block_out_channels=(16, 16),
    encoder_layers_per_block=(1, 1),
    decoder_layers_per_block=(1, 1),
    encoder_qkv_multiscales=((), (5,)),
    decoder_qkv_multiscales=((), (5,)),
)
_WAN_CODER: dict[str, Any] = dict(
    base_dim=8,
    z_dim=4,
    dim_mult=[1, 2],
    num_res_blocks=1,
    temperal_downsample=[False],
    latents_mean=[0.0] * 4,
    latents_std=[1.0] * 4,
)
_OF_TEXT = {f"*{name}": WORDS for name in ("attn2.to_k", "attn2.to_v", "attn2.norm_k", "caption_projection*")}
"""The layers that read the text, and its mask."""


def diffusers() -> Iterator[Entry]:
    """UNets, transformers and autoencoders of diffusers."""
    import diffusers as d

    unet = lambda: d.UNet2DConditionModel(**_UNET)
    yield entry("UNet2DCondition", unet, LATENT, T, encoder_hidden_states=TEXT)
    masked = dict(encoder_hidden_states=TEXT, encoder_attention_mask=WORDS)
    yield entry("UNet2DCondition.mask", unet, LATENT, T, **masked, real=_OF_TEXT)
    kinds = dict(
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D")
    )
    plain = _BLOCKS | kinds | dict(in_channels=4, out_channels=4)
    yield entry("UNet2D", lambda: d.UNet2DModel(**plain), LATENT, T)
    yield from _transformers(d)
    image = numbers(2, 3, 16, 16)
    coder = dict(block_out_channels=(16,), norm_num_groups=4)
    yield entry("AutoencoderKL", lambda: d.AutoencoderKL(**coder), image)
    yield entry("AutoencoderKLWan", lambda: d.AutoencoderKLWan(**_WAN_CODER), numbers(1, 3, 1, 16, 16))
    yield entry("VQModel", lambda: d.VQModel(num_vq_embeddings=8, **coder), image)
    yield entry("AutoencoderDC", lambda: d.AutoencoderDC(**_DC), image)


def _transformers(d: Any) -> Iterator[Entry]:
    dit = _SMALL | dict(attention_head_dim=16, sample_size=16, num_embeds_ada_norm=1000)
    yield entry("DiT", lambda: d.DiTTransformer2DModel(**dit), LATENT, T, class_labels=torch.tensor([1, 2]))
    options: dict[str, Any] = dict(
        encoder_attention_mask=WORDS.float(), added_cond_kwargs={"resolution": None, "aspect_ratio": None}
    )
    pixart = lambda: d.PixArtTransformer2DModel(**_PIXART)
    yield entry("PixArt", pixart, LATENT, TEXT, T, **options, real=_OF_TEXT)
    joint = _JOINT | dict(
        sample_size=16, patch_size=2, out_channels=4, caption_projection_dim=32, qk_norm="rms_norm"
    )
    yield entry("SD3", lambda: d.SD3Transformer2DModel(**joint), LATENT, TEXT, numbers(2, 8), T)
    flux = _JOINT | dict(num_single_layers=1, axes_dims_rope=(4, 4, 8))
    yield entry(
        "Flux",
        lambda: d.FluxTransformer2DModel(**flux),
        hidden_states=numbers(2, 9, 4),
        encoder_hidden_states=TEXT,
        pooled_projections=numbers(2, 8),
        timestep=torch.tensor([0.3, 0.5]),
        img_ids=torch.zeros(9, 3),
        txt_ids=torch.zeros(5, 3),
    )
    video: dict[str, Any] = dict(timestep=T, num_frames=2, height=2, width=2)
    video |= dict(encoder_hidden_states=TEXT, encoder_attention_mask=WORDS)
    ltx = lambda: d.LTXVideoTransformer3DModel(**_LTX)
    yield entry("LTX", ltx, hidden_states=numbers(2, 8, 4), **video, real=_OF_TEXT)
    yield entry("Wan", lambda: d.WanTransformer3DModel(**_WAN), numbers(2, 4, 2, 8, 8), T, TEXT)


def denoising_diffusion() -> Iterator[Entry]:
    """UNets with a scale for each channel."""
    bare_package("denoising_diffusion_pytorch")
    from denoising_diffusion_pytorch.denoising_diffusion_pytorch_1d import Unet1D

    yield entry("Unet1D", lambda: Unet1D(dim=8, dim_mults=(1, 2), channels=3), numbers(2, 3, 32), T)


def vector_quantize() -> Iterator[Entry]:
    """Quantizers between two Linears."""
    import vector_quantize_pytorch as v

    def between(quantizer: nn.Module) -> nn.Module:
        return _Coded(quantizer)

    makers: dict[str, Any] = {
        "VectorQuantize": lambda: v.VectorQuantize(dim=16, codebook_size=32),
        "VectorQuantize.cosine": lambda: v.VectorQuantize(dim=16, codebook_size=32, use_cosine_sim=True),
        "FSQ": lambda: v.FSQ(levels=[5, 5, 5], dim=16),
        "LFQ": lambda: v.LFQ(codebook_size=16, dim=16),
        "ResidualVQ": lambda: v.ResidualVQ(dim=16, num_quantizers=2, codebook_size=32),
        "SimVQ": lambda: v.SimVQ(dim=16, codebook_size=32),
    }
    for name, make in makers.items():
        yield entry(name, lambda make=make: between(make()), numbers(4, 20, 16))


class _Coded(nn.Module):
    """A quantizer with a Linear and a LayerNorm before and a Linear behind."""

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16))
        self.quantizer, self.behind = quantizer, nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.behind(self.quantizer(self.before(x))[0])


LIBRARIES = {
    "diffusers": diffusers,
    "denoising-diffusion-pytorch": denoising_diffusion,
    "vector-quantize-pytorch": vector_quantize,
}
