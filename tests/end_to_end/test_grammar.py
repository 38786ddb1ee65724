"""Any small model from a grammar of layers, on any batches, masks and dtypes: the tables are the oracle's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import normprobe
from tests.helpers.against_oracle import hold

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


class RMSLike(nn.Module):
    """An RMSNorm of nobody's library, found by its name; perhaps with a unit offset."""

    def __init__(self, width: int, offset: float) -> None:
        super().__init__()
        self.weight, self.variance_epsilon, self.offset = nn.Parameter(torch.zeros(width)), 1e-6, offset

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight + self.offset
        return scale * x * (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()


class Residual(nn.Module):
    """Adds what its inside makes of its input, perhaps several times over."""

    def __init__(self, inside: nn.Module, times: int, in_place: bool) -> None:
        super().__init__()
        self.inside, self.times, self.in_place = inside, times, in_place

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        for _ in range(self.times):
            x = x.add_(self.inside(x)) if self.in_place else x + self.inside(x)
        return x


class Transposed(nn.Module):
    """Calls its inside with the last two axes swapped, so that it reads and writes strided memory."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x.transpose(-1, -2).contiguous().transpose(-1, -2))


class Masked(nn.Module):
    """A model that takes a mask, as the models of transformers do."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.body(inputs_embeds)


@dataclass
class Case:
    """A model, its batches and their masks."""

    model: nn.Module
    batches: list[dict[str, Tensor]]


def same_width(width: int) -> st.SearchStrategy[nn.Module]:
    """A layer from (..., width) to (..., width)."""
    leaf = st.one_of(
        st.builds(lambda bias: nn.Linear(width, width, bias=bias), st.booleans()),
        st.builds(lambda affine: nn.LayerNorm(width, elementwise_affine=affine), st.booleans()),
        st.builds(lambda affine: nn.RMSNorm(width, elementwise_affine=affine), st.booleans()),
        st.builds(RMSLike, st.just(width), st.sampled_from([0.0, 1.0])),
        st.sampled_from([nn.ReLU, nn.GELU, nn.Identity]).map(lambda cls: cls()),
    )
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.builds(Residual, inner, st.integers(1, 3), st.booleans()),
            st.builds(Transposed, inner),
            st.lists(inner, min_size=1, max_size=3).map(lambda parts: nn.Sequential(*parts)),
        ),
        max_leaves=4,
    )


def layers_of_channels(channels: int, axes: int) -> st.SearchStrategy[nn.Module]:
    """A layer from (batch, channels, ...) to (batch, channels, ...)."""
    conv, batch, instance = (
        [nn.Conv1d, nn.Conv2d][axes - 1],
        [nn.BatchNorm1d, nn.BatchNorm2d][axes - 1],
        [nn.InstanceNorm1d, nn.InstanceNorm2d][axes - 1],
    )
    return st.one_of(
        st.builds(lambda: conv(channels, channels, 1)),
        st.builds(lambda affine: batch(channels, affine=affine), st.booleans()),
        st.builds(lambda affine: instance(channels, affine=affine), st.booleans()),
        st.builds(lambda groups: nn.GroupNorm(groups, channels), st.sampled_from([1, channels])),
        st.sampled_from([nn.ReLU, nn.LeakyReLU]).map(lambda cls: cls()),
    )


def settled(model: nn.Module, seed: int, dtype: torch.dtype) -> nn.Module:
    """The model with weights that tell formulas apart."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + (0.5 if "var" in name else 0.1))
    return model.to(dtype).eval()


def numbers(draw: st.DrawFn, shape: list[int], dtype: torch.dtype) -> Tensor:
    """Random numbers, shifted and scaled, perhaps with zeros and non-finite ones."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    values = torch.randn(shape, generator=generator) + draw(st.sampled_from([0.0, 0.5, -30.0]))
    values = values * draw(st.sampled_from([1.0, 0.01, 20.0]))
    spots = torch.rand(shape, generator=generator)
    if draw(st.booleans()):
        values = values.masked_fill(spots < 0.2, 0.0)
    if draw(st.integers(0, 4)) == 0:
        values = values.masked_fill(spots > 0.95, draw(st.sampled_from([torch.nan, torch.inf, -torch.inf])))
    return values.to(dtype)


def real_positions(draw: st.DrawFn, batch: int, time: int) -> Tensor:
    """A padding mask (batch, time): left, right or both sides padded; every text has a position."""
    lengths = draw(st.lists(st.integers(1, time), min_size=batch, max_size=batch))
    starts = [draw(st.integers(0, time - length)) for length in lengths]
    at = torch.arange(time)
    return torch.stack([(at >= s) & (at < s + n) for s, n in zip(starts, lengths, strict=True)])


@st.composite
def sequences(draw: st.DrawFn) -> Case:
    """A model over (batch, time, width), with or without padding masks."""
    width = draw(st.integers(2, 8))
    parts = draw(st.lists(same_width(width), min_size=1, max_size=3))
    body = nn.Sequential(*parts, nn.Linear(width, draw(st.integers(1, 5))))
    dtype, masked = draw(st.sampled_from(DTYPES)), draw(st.booleans())
    batches = []
    for _ in range(draw(st.integers(1, 3))):
        batch, time = draw(st.integers(1, 4)), draw(st.integers(2, 6))
        given_ = {"inputs_embeds": numbers(draw, [batch, time, width], dtype)}
        if masked:
            mask = real_positions(draw, batch, time)
            given_["attention_mask"] = mask.to(
                draw(st.sampled_from([torch.bool, torch.int64, torch.float32]))
            )
        batches.append(given_)
    return Case(settled(Masked(body), draw(st.integers(0, 99)), dtype), batches)


@st.composite
def images(draw: st.DrawFn) -> Case:
    """A model over (batch, channels, ...), with a Linear behind its mean over pixels."""
    channels, axes = draw(st.integers(2, 6)), draw(st.integers(1, 2))
    parts = draw(st.lists(layers_of_channels(channels, axes), min_size=1, max_size=4))
    head = [[nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d][axes - 1](1), nn.Flatten(), nn.Linear(channels, 3)]
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    batches = []
    for _ in range(draw(st.integers(1, 3))):
        shape = [draw(st.integers(1, 4)), channels, *(draw(st.integers(2, 5)) for _ in range(axes))]
        batches.append({"input": numbers(draw, shape, dtype)})
    return Case(settled(nn.Sequential(*parts, *head), draw(st.integers(0, 99)), dtype), batches)


def run(case: Case) -> normprobe.Recording:
    return normprobe.record(case.model, case.batches, samples="all")


def masks_of(case: Case, calls: int) -> list[np.ndarray] | None:
    """The mask of each call of a layer that is called the same number of times in every batch."""
    if "attention_mask" not in case.batches[0]:
        return None
    each = calls // len(case.batches)
    return [batch["attention_mask"].bool().numpy() for batch in case.batches for _ in range(each)]


@settings(max_examples=40)
@given(sequences())
def test_any_model_over_sequences(case: Case) -> None:
    note(repr(case.model))
    hold(case.model, lambda: run(case), masks=lambda calls: masks_of(case, calls))


@settings(max_examples=30)
@given(images())
def test_any_model_over_images(case: Case) -> None:
    note(repr(case.model))
    hold(case.model, lambda: run(case))


@settings(max_examples=12)
@given(sequences(), st.data())
def test_any_cut_of_any_model_gives_the_same_samples(case: Case, data: Any) -> None:
    whole = normprobe.record(case.model, case.batches, part="p", samples=5, values=3)
    pieces: list[dict[str, Tensor]] = []
    for batch in case.batches:
        cut = data.draw(st.integers(0, len(batch["inputs_embeds"])))
        pieces += [
            {name: value[half] for name, value in batch.items()} for half in (slice(cut), slice(cut, None))
        ]
    parts = normprobe.record(case.model, pieces, part="p", samples=5, values=3)
    identity = ["layer", "site", "repeat", "example", "position"]
    assert parts.samples[identity].equals(whole.samples[identity])
    assert parts.layers[["layer", "site", "n_samples", "masked"]].equals(
        whole.layers[["layer", "site", "n_samples", "masked"]]
    )
