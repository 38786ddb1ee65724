"""The words of findings: title, message and advice of every check, held against one golden file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from normprobe.findings import CHECKS, find
from normprobe.tables.measures.history import History
from tests.helpers.findings_tables import FakeTables, Layer, tables
from tests.helpers.histories import gradients, history, lag, parameters

GOLDEN = Path(__file__).parent / "golden" / "findings.txt"


def values(scale: Any = 1.0, rows: int = 64, features: int = 32, seed: int = 0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal((rows, features))


def at(rows: np.ndarray, value: float, where: Any = (3, 5)) -> np.ndarray:
    changed = rows.copy()
    changed[where] = value
    return changed


def linear(
    name: str, before: np.ndarray | None = None, after: np.ndarray | None = None, **extra: Any
) -> Layer:
    rows = [values(seed=seed) if given is None else given for seed, given in enumerate((before, after))]
    return Layer(name, "linear", *rows, **extra)


def batch_norm(name: str, mean: Any = 0.0, variance: Any = 1.0, **extra: Any) -> Layer:
    running = {"running_mean": mean, "running_var": variance, "weight": 1.1, "bias": 0.1}
    return Layer(name, "batch_norm", values(), values(seed=1), features=running, **extra)


def batch_norm_small(name: str) -> Layer:
    running = {"running_mean": 0.0, "running_var": 1e-8, "weight": 1.1, "bias": 0.1}
    return Layer(name, "batch_norm", values(1e-4), values(0.03), features=running)


def layer_norm(name: str, before: np.ndarray | None = None, kind: str = "layer_norm", **extra: Any) -> Layer:
    rows = values() if before is None else before
    return Layer(name, kind, rows, extra.pop("after", values(seed=1)), **extra)


def positioned(data: np.ndarray, **meta: Any) -> FakeTables:
    made = tables(linear("a", data), linear("b", data), meta=meta)
    where = made.samples["example"]
    return replace(made, samples=made.samples.assign(example=where // 4, position=where % 4))


def padded(layer: Layer, mean: float, variance: float) -> FakeTables:
    made = tables(linear("first"), layer)
    inputs = (made.features["layer"] == layer.name) & (made.features["site"] == "input")
    seen = made.features.assign(
        seen_mean=made.features["seen_mean"].where(~inputs, mean),
        seen_variance=made.features["seen_variance"].where(~inputs, variance),
    )
    return replace(made, features=seen, layers=made.layers.assign(masked=9))


def unfit(*names: str) -> FakeTables:
    made = tables(*(linear(name) for name in names))
    return replace(made, ledger=made.ledger.assign(unmasked=1))


def routed(*tokens: int, meta: dict[str, Any] | None = None) -> FakeTables:
    """A router, and experts that had so many tokens each."""
    made = tables(linear("gate"), linear("a"), meta=meta)
    rows = {"layer": "moe", "expert": range(len(tokens)), "site": "input", "router": "gate", "tokens": tokens}
    experts = pd.DataFrame(rows).assign(n_features=32).reindex(columns=list(made.experts))
    return replace(made, experts=experts)


def scaled(name: str, factor: float, count: int = 4) -> list[Layer]:
    return [linear(f"h.{i}.{name}", None, values(factor if i == 2 else 1.0, seed=1)) for i in range(count)]


CASES: dict[str, Callable[[], FakeTables]] = {
    "nonfinite: in a layer": lambda: tables(linear("a", None, at(values(), np.nan)), linear("b")),
    "nonfinite: between": lambda: tables(
        linear("a"), linear("b", at(values(), np.inf), at(values(), np.nan))
    ),
    "nonfinite: data": lambda: tables(linear("a", at(values(), np.nan), at(values(), np.nan))),
    "nonfinite: stored": lambda: tables(
        linear("a", None, at(values(), np.nan)),
        linear("b"),
        meta={"stored_nonfinite": {"a.weight": 2, "b.bias": 1}},
    ),
    "nonfinite: overflow": lambda: tables(linear("a", None, at(values(), np.inf), dtype="float16")),
    "nonfinite: eps": lambda: tables(
        linear("a"),
        layer_norm("n", at(values(), 0.0, 3), after=at(values(), np.nan, 3), eps=1e-12, dtype="float16"),
    ),
    "nonfinite: padding": lambda: tables(
        linear("a", sites={"output": {"nonfinite_masked": 7}}), linear("b")
    ),
    "fp16_overflow": lambda: tables(linear("a", None, at(values(), 70_000))),
    "variance_below_eps: eps": lambda: tables(linear("a"), layer_norm("n", values(0.3), eps=1.0)),
    "variance_below_eps: groups": lambda: tables(
        linear("a"), layer_norm("n", values(1e-4), kind="group_norm", ledger={"groups": 4})
    ),
    "variance_below_eps: channels": lambda: tables(linear("a"), batch_norm_small("n")),
    "variance_below_eps: input": lambda: tables(linear("a"), layer_norm("n", values(1e-4), kind="rms_norm")),
    "nearly_constant_rows": lambda: tables(linear("a"), layer_norm("n", values() + 100)),
    "stale_running_statistics: variance": lambda: tables(linear("a"), batch_norm("n", variance=9.0)),
    "stale_running_statistics: mean": lambda: tables(linear("a"), batch_norm("n", mean=2.0)),
    "stale_running_statistics: never": lambda: tables(linear("a"), batch_norm("n"), batch_norm("m", 0.5)),
    "stale_running_statistics: momentum": lambda: tables(
        linear("a"), batch_norm("n", mean=2.0, ledger={"momentum": 0.999})
    ),
    "stale_running_statistics: dtype": lambda: tables(
        linear("a"), batch_norm("n", mean=2.0, ledger={"momentum": 0.001, "running_dtype": "bfloat16"})
    ),
    "stale_channels: variance": lambda: tables(
        linear("a"), batch_norm("n", variance=at(np.ones(32), 1e-4, 3))
    ),
    "stale_channels: mean": lambda: tables(linear("a"), batch_norm("n", mean=at(np.zeros(32), 9.0, 3))),
    "running_variance_invalid": lambda: tables(linear("a"), batch_norm("n", variance=-1.0)),
    "batchnorm_train_mode: one": lambda: tables(linear("a"), batch_norm("n", 0.1, training="train")),
    "batchnorm_train_mode: all": lambda: tables(
        linear("a", training="train"), batch_norm("n", 0.1, training="train")
    ),
    "batchnorm_train_mode: frozen": lambda: tables(
        linear("a", training="train", grad="grad"),
        batch_norm("n", 0.1, training="train", grad="grad"),
        meta={"trainable": False},
    ),
    "small_batch_statistics: synchronized": lambda: tables(
        linear("a"),
        batch_norm("n", 0.1, training="train", grad="grad", calls=16, ledger={"type": "SyncBatchNorm"}),
    ),
    "small_batch_statistics: values": lambda: tables(
        linear("a"), batch_norm("n", 0.1, training="train", grad="grad", calls=16)
    ),
    "frozen_but_updating": lambda: tables(
        linear("a", ledger={"trainable": True}),
        batch_norm("n", 0.1, ledger={"trainable": False, "moved": True}),
    ),
    "updated_twice": lambda: tables(linear("a"), batch_norm("n", 0.1, ledger={"updates": 8, "firings": 4})),
    "padding_in_norm: variance": lambda: padded(batch_norm("n", 0.0, 0.5, training="train"), 0.0, 0.5),
    "padding_in_norm: mean": lambda: padded(batch_norm("n", 0.5, 1.0, training="train"), 0.5, 1.0),
    "padding_unmasked: a mask that does not fit": lambda: unfit("a", "b"),
    "padding_unmasked": lambda: positioned(values(), unit="token", rows=64, pad_tokens=16),
    "dead_features: linear": lambda: tables(
        linear("a", None, -np.abs(values())), linear("b", at(values(), 0.0, np.s_[:, :20]))
    ),
    "dead_features: norm": lambda: tables(
        linear("a"), layer_norm("n", kind="batch_norm", after=at(values(), -1.0, np.s_[:, :1]) - 9)
    ),
    "constant_features": lambda: tables(linear("a"), layer_norm("n", at(values(), 3.0, np.s_[:, :16]))),
    "saturated_input: ends": lambda: tables(linear("a"), linear("b", np.tanh(values(50)))),
    "saturated_input: zeros": lambda: tables(
        linear("a"), linear("b", np.where(values(rows=256) > 2.6, values(rows=256), 0.0))
    ),
    "variance_explodes: role": lambda: tables(*scaled("down", 30.0)),
    "variance_explodes: trend": lambda: tables(
        *(layer_norm(f"n{i}", values(5.0**i)) for i in range(8))
    ),
    "variance_vanishes: role": lambda: tables(*scaled("down", 0.01)),
    "collapsed_samples: samples": lambda: tables(
        linear("a"), linear("b", np.ones((64, 32)), np.ones((64, 32))),
        linear("c", np.ones((64, 32)), np.ones((64, 32))),
    ),
    "collapsed_samples: examples": lambda: positioned(np.tile(values(rows=4), (16, 1))),
    "outlier_sample": lambda: tables(linear("a", at(values(), 500.0, 3))),
    "input_scale": lambda: tables(linear("a", values(np.logspace(-3, 3, 32)))),
    "massive_activations: written": lambda: tables(
        linear("a"), linear("b", None, at(values(), 5000.0)), layer_norm("n", at(values(), 5000.0))
    ),
    "massive_activations: between": lambda: tables(linear("a"), layer_norm("n", at(values(), 5000.0))),
    "outlier_features": lambda: tables(
        linear("a"), layer_norm("n", at(values(), 60.0, np.s_[:, 5]) + values(0.1))
    ),
    "norm_unlike_peers: weight": lambda: tables(
        *(layer_norm(f"h.{i}.n", features={"weight": 0.01 if i == 2 else 1.0 + i}) for i in range(4))
    ),
    "norm_unlike_peers: output": lambda: tables(
        *(layer_norm(f"h.{i}.n", after=values(0.01 if i == 2 else 1.0)) for i in range(4))
    ),
    "outlier_norm_weight": lambda: tables(
        linear("a"), layer_norm("n", features={"weight": at(np.ones(32), 40.0, 7)})
    ),
    "dead_expert": lambda: routed(0, 90, 110, meta={"training": ["train"]}),
    "too_few_tokens: expert": lambda: routed(9, 90, 110),
    "too_few_tokens: layer": lambda: tables(
        linear("a"), linear("b"), linear("c", values(rows=20), values(rows=20))
    ),
}  # fmt: skip

STEADY = [1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0]
OVER_TIME: dict[str, Callable[[], History]] = {
    "gradients_vanish": lambda: gradients([10.0 ** (block - 6) for block in range(6)]),
    "gradients_explode": lambda: gradients([10.0**-block for block in range(6)]),
    "update_out_of_range: large": lambda: parameters([0.01, 0.3, 0.01]),
    "update_out_of_range: small": lambda: parameters([1e-3, 1e-9, 2e-9, 3e-9]),
    "variance_spike": lambda: history({("b", "input"): [*STEADY, 40.0, 1.0]}),
    "variance_drift": lambda: history({("b", "output"): [2.0**window for window in range(16)]}),
    "running_statistics_lag": lambda: lag([9.0, 1.1, 3.0, 2.5, 4.0]),
    "features_stay_dead": lambda: replace(
        history({("a", "input"): [1.0] * 8, ("b", "input"): [1.0] * 8}),
        dead={("train", "b"): np.array([5, 5, 0, 0])},
    ),
}


def words(name: str) -> str:
    """The text of what one check finds in a case."""
    check = name.partition(":")[0]
    made = CASES[name]() if name in CASES else replace(tables(linear("a")), history_source=OVER_TIME[name])
    found = find(made, [check])
    lines = [f"[{name}]"]
    for row in found.itertuples():
        lines += [f"{row.severity}: {row.title}", str(row.message), str(row.advice)]
    return "\n".join(lines)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_words_of_findings() -> None:
    """NORMPROBE_WRITE_GOLDEN=1 writes the file anew, to be read before it is committed."""
    written = "\n\n".join(map(words, [*CASES, *OVER_TIME])) + "\n"
    if os.environ.get("NORMPROBE_WRITE_GOLDEN") == "1":
        GOLDEN.write_text(written, encoding="utf-8")
    assert written == GOLDEN.read_text(encoding="utf-8")


def test_every_check_has_words() -> None:
    assert {name.partition(":")[0] for name in [*CASES, *OVER_TIME]} == {check.name for check in CHECKS}
    every = GOLDEN.read_text(encoding="utf-8").split("\n\n")
    assert all("\n" in text for text in every), "a case in which nothing is found"
