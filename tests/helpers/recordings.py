"""Recordings for the tests of tables: of a small model, and made from arrays without one."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import normprobe
from normprobe.kernels.moments import Moments
from normprobe.recording import Recording
from normprobe.samples.hashing import hashes
from normprobe.tables.frames import Tables, build_tables
from normprobe.tables.records import Holder, Kept, LayerRecord, SiteRecord

FRAMES = ("layers", "features", "samples", "ledger", "labels")
BASES = ("ledger_base", "sites", "feature_moments", "sample_moments", "rows", "labels_base")


class Net(nn.Module):
    """One layer of each kind of sample, one that is never called, and names that need care in a CSV file."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 5)
        self.norm = nn.LayerNorm(5)
        self.null = nn.Linear(5, 4)
        self.batch_norm = nn.BatchNorm1d(4)
        self.unused = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.null(self.norm(self.embed(x)))
        return self.batch_norm(hidden.transpose(1, 2)).transpose(1, 2)


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def batches(count: int = 2, size: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Batches of examples with 7 positions of 6 numbers, none of them whole."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 7, 6, generator=generator, dtype=dtype) for _ in range(count)]


@cache
def recorded(part: str = "a", seed: int = 0, **options: Any) -> Recording:
    """A recording of two batches; frozen, so all tests share it."""
    return normprobe.record(net(), batches(seed=seed), part=part, **options)


def moments(data: np.ndarray, axis: int = 0) -> Moments:
    """Moments of the finite numbers along an axis, in two passes."""
    finite = np.isfinite(data)
    inside = np.where(finite, data, 0.0)
    count = finite.sum(axis)
    mean = inside.sum(axis) / np.maximum(count, 1)
    return replace(
        Moments.empty(len(count)),
        count=count,
        mean=mean,
        m2=np.where(finite, data - np.expand_dims(mean, axis), 0.0).__pow__(2).sum(axis),
        minimum=np.where(finite, data, np.inf).min(axis, initial=np.inf),
        maximum=np.where(finite, data, -np.inf).max(axis, initial=-np.inf),
        abs_sum=np.abs(inside).sum(axis),
        zeros=(finite & (data == 0)).sum(axis),
        nonfinite=(~finite).sum(axis),
    )


def site(
    name: str, data: np.ndarray, *, first: int = 0, samples: int | None = None, values: int = 4, seed: int = 0
) -> SiteRecord:
    """What a probe keeps of ``data``, shape (examples, features), whose first example has this number."""
    example = np.arange(first, first + len(data))
    order = np.argsort(hashes(seed, example, np.zeros_like(example)), kind="stable")
    of_sample = moments(data, 1)
    columns = [of_sample.count, of_sample.mean, of_sample.m2, of_sample.minimum, of_sample.maximum]

    def kept(what: np.ndarray, most: int | None) -> Kept:
        at = order[:most]
        zero = np.zeros_like(at)
        text = np.array([f"text {number}" for number in example[at]], dtype=object)
        return Kept(
            hashes(seed, example, np.zeros_like(example))[at], example[at], zero, zero, zero, what[at], text
        )

    filled = of_sample.count > 0
    return SiteRecord(
        site=name,
        dtype=str(data.dtype),
        calls=1,
        n_samples=len(data),
        masked=len(data) % 3,
        nonfinite_masked=0,
        within_sum=float((of_sample.m2 / np.maximum(of_sample.count, 1))[filled].sum()),
        within_count=int(filled.sum()),
        features=moments(data),
        seen=None,
        minimum=_holder(np.where(np.isfinite(data), data, np.inf), np.argmin, first),
        maximum=_holder(np.where(np.isfinite(data), data, -np.inf), np.argmax, first),
        samples=kept(np.stack(columns, 1), samples),
        rows=kept(data, values),
    )


def _holder(data: np.ndarray, find: Any, first: int) -> Holder | None:
    if not data.size or not np.isfinite(data.flat[find(data)]):
        return None
    example, feature = divmod(int(find(data)), data.shape[1])
    return Holder(float(data[example, feature]), first + example, 0, feature, f"text {first + example}")


def layer(
    name: str, kind: str, sites: list[SiteRecord], *, depth: int | None = 0, **ledger: Any
) -> LayerRecord:
    """One layer that fired where it has a depth."""
    width = len(sites[0].features.count) if sites else 3
    row = {
        **{"layer": name, "aliases": "", "kind": kind, "type": kind, "n_features": width, "eps": 1e-5},
        **{"affine": False, "training": "eval", "grad": "no_grad", "calls": int(bool(sites)), "via": "hook"},
        **{"status": "fired" if sites else "never fired", "masked_by": "", "sample_unit": "position"},
        **{"aligned": True if sites else None, "reason": ""},
        **{"trainable": True, "moved": None, "updates": None, "firings": int(bool(sites))},
    }
    return LayerRecord(row | ledger, depth if sites else None, tuple(sites), {})


def meta(part: str, examples: int, **facts: Any) -> dict[str, Any]:
    """The facts of a recording as a probe writes them."""
    return {
        **dict.fromkeys(("name", "model"), "Net"),
        **{
            "data": None,
            "device": "cpu",
            "meant_dtype": None,
            "dtype": "float32",
            "kernel": "torch",
            "created": "2026-01-01T00:00:00",
            "trainable": True,
        },
        **{"versions": {"normprobe": "1", "transformers": None}, "seconds": None, "warnings": []},
        **{"forwards": 1, "measured": 1, "rows": examples, "padding": 0, "nbytes": 0, "examples": examples},
        **{"unit": "position", "example_unit": "example", "training": ["eval"], "parts": [part]},
        "digests": {part: [examples, 7]},
        "options": {
            "samples": 6,
            "values": 4,
            "every": 1,
            "seed": 0,
            "mask": "auto",
            "layers": None,
            "kinds": None,
        },
        **facts,
    }


def made(part: str, data: np.ndarray, *, first: int = 0, absent: bool = False) -> Tables:
    """The tables of a norm that reads ``data`` (examples, features) and a Linear that may not be called."""
    options = {"first": first, "samples": 6}
    norm = layer("norm", "layer_norm", [site("input", data, **options), site("output", 2 * data, **options)])
    head = [] if absent else [site("input", 2 * data, **options), site("output", data[:, :1] + 1, **options)]
    norm.vectors["weight"] = np.full(data.shape[1], 2.0)
    return build_tables([norm, layer("head", "linear", head, depth=1)], meta(part, len(data)), part)


def assert_same(a: Tables, b: Tables, *, relative: float = 0.0) -> None:
    """Equal, identities and counts exactly, floats to a relative error."""
    for name in (*BASES, *FRAMES):
        left, right = getattr(a, name), getattr(b, name)
        pd.testing.assert_frame_equal(left, right, check_exact=relative == 0, rtol=relative, atol=relative)
        whole = left.select_dtypes(["int64", "Int64", "boolean", "string"]).columns
        pd.testing.assert_frame_equal(left[whole], right[whole])
    np.testing.assert_array_equal(a.row_values, b.row_values)
    assert a.meta == b.meta
