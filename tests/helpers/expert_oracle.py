"""The oracle of experts: what each one's own products read and give while a model computes them one by one.

Which expert a matrix is of is told by its numbers, not by where it lies; which tokens by the choices that the
module was called with, in the order in which `torch.where` gives them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Rows = dict[tuple[str, str, int], np.ndarray]


class _Products(TorchFunctionMode):
    """Every product of two matrices: what it reads, its weight, and what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ("linear", "matmul", "__matmul__"):
            self.seen.append((args[0].detach().clone(), args[1].detach().clone(), result.detach().clone()))
        return result


def expert_rows(model: nn.Module, batches: Iterable[dict[str, Any]], holders: dict[str, str]) -> Rows:
    """The rows of each site and expert, float64, over all batches, padding left out.

    Args:
        model: computes its experts one by one (``eager``), called with (hidden, index, weights).
        batches: keyword arguments of its forward; what has a mask leaves its padding out.
        holders: by the name of each module of experts the name of its last weight.
    """
    found: dict[tuple[str, str, int], list[Tensor]] = defaultdict(list)
    modules = dict(model.named_modules())
    for batch in batches:
        mask = batch.get("attention_mask")
        real = None if mask is None else mask[:, -batch["input_ids"].shape[1] :].reshape(-1).bool()
        with ExitStack() as stack, torch.no_grad():
            for name, last in holders.items():
                stack.callback(_listen(modules[name], name, last, real, found))
            model(**batch)
    return {key: torch.cat(rows).double().numpy() for key, rows in found.items()}


def _listen(
    module: nn.Module, name: str, last: str, real: Tensor | None, found: dict[Any, list[Tensor]]
) -> Callable[[], None]:
    """Note the rows of one module's experts; returns what ends that."""
    mode = _Products()

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        mode.index, mode.hidden = args[1].clone(), args[0].detach().clone().reshape(-1, args[0].shape[-1])
        mode.seen.clear()
        mode.__enter__()

    def after(_: nn.Module, args: Any, output: Any) -> None:
        mode.__exit__(None, None, None)
        held = dict(module.named_parameters())
        weight = held[last].detach()
        count = module.num_experts
        each = weight.reshape(count, -1, weight.shape[-1])
        bias = held.get(f"{last}_bias")
        for expert in range(count):
            _, tokens = torch.where(mode.index.T.eq(expert))
            keep = torch.ones_like(tokens, dtype=torch.bool) if real is None else real[tokens]
            if not len(tokens):
                continue
            found[name, "input", expert].append(mode.hidden[tokens[keep]])
            for reads, matrix, gives in mode.seen:
                if any(torch.equal(matrix, one) for one in (each[expert], each[expert].T)):
                    assert len(reads) == len(tokens)
                    found[name, "intermediate", expert].append(reads[keep])
                    whole = gives if bias is None else gives + bias.detach()[expert]
                    found[name, "output", expert].append(whole[keep])

    handles = [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after),
    ]
    return lambda: [handle.remove() for handle in handles] and None


def check_experts(table: pd.DataFrame, features: pd.DataFrame, rows: Rows, *, rtol: float = 1e-6) -> None:
    """Hold both tables against the rows of the oracle."""
    assert len(table) == len(table.drop_duplicates(["layer", "site", "expert"]))
    for (layer, site, expert), row in table.set_index(["layer", "site", "expert"]).iterrows():
        given = rows.get((layer, site, expert), np.empty((0, row["n_features"])))
        assert row["tokens"] == len(given), (layer, site, expert)
        own = features[
            (features["layer"] == layer) & (features["site"] == site) & (features["expert"] == expert)
        ]
        assert own["feature"].tolist() == list(range(row["n_features"]))
        assert (own["count"] == len(given)).all()
        if len(given):
            scale = given.std() + np.abs(given.mean())
            np.testing.assert_allclose(row["mean"], given.mean(), rtol=0, atol=rtol * scale)
            np.testing.assert_allclose(row["variance"], given.var(), rtol=rtol)
            np.testing.assert_allclose(row["abs_mean"], np.abs(given).mean(), rtol=rtol)
            np.testing.assert_allclose([row["min"], row["max"]], [given.min(), given.max()], rtol=rtol)
            np.testing.assert_allclose(own["mean"], given.mean(0), rtol=0, atol=rtol * scale)
            np.testing.assert_allclose(own["variance"], given.var(0), rtol=rtol, atol=rtol * given.var())
    seen = set(zip(table["layer"], table["site"], table["expert"], strict=True))
    assert set(rows) <= seen
