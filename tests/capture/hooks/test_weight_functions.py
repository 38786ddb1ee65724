"""Which functions use weights, and that a mode hears them as they were called."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import normprobe
from normprobe.capture.hooks.weight_functions import COMPOSITE, LOST, USES, with_linear


def test_every_function_is_torchs_and_overridable() -> None:
    overridable = set(torch.overrides.get_testing_overrides()) | set(torch.overrides.get_ignored_functions())
    for func in (*USES, *COMPOSITE):
        assert func in overridable, func


class Losing(nn.Module):
    """Computes a weighted loss in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.l1_loss(self.linear(x), x, weight=weight, reduction="sum")


@pytest.mark.skipif("weight" not in F.l1_loss.__code__.co_varnames, reason="it takes no weight")
def test_what_torch_drops_when_it_meets_a_mode_is_handed_on() -> None:
    model, x, weight = Losing(), torch.randn(3, 4), torch.rand(3, 4)
    expected = model(x, weight)
    with normprobe.Probe(model):
        for _ in range(3):
            assert torch.equal(model(x, weight), expected)


def _dropped(path: Path) -> set[str]:
    """Functions of a file, with the parameters that they do not pass to `handle_torch_function`."""
    found = set()
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        given = function.args
        parameters = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "handle_torch_function":
                handed: list[Any] = [*call.args[2:], *(keyword.value for keyword in call.keywords)]
                names = {n.id for part in handed for n in ast.walk(part) if isinstance(n, ast.Name)}
                found |= {f"{function.name}.{name}" for name in parameters if name not in names}
    return found


def test_torch_drops_nothing_else() -> None:
    root = Path(torch.__file__).parent
    found = {
        name for file in ("nn/functional.py", "functional.py", "_tensor.py") for name in _dropped(root / file)
    }
    # Handed on in a tuple or a dict, which the names above do not show.
    found = {name for name in found if not name.startswith("__dlpack__.")}
    found -= {"_handle_torch_function_and_wrap_type_error_to_not_implemented.f"}
    assert found <= {f"{func.__name__}.{name}" for func, name in LOST.items()}


def test_a_copy_of_attention_computes_the_same_and_calls_what_it_is_given() -> None:
    calls: list[tuple[int, ...]] = []

    def linear(*args: Any) -> Tensor:
        calls.append(tuple(args[1].shape))
        return F.linear(*args)

    attention = nn.MultiheadAttention(4, 2)
    q, k = torch.randn(3, 2, 4), torch.randn(5, 2, 4)
    weights = (attention.in_proj_weight, attention.in_proj_bias, None, None, False, 0.0)
    given = (4, 2, *weights, attention.out_proj.weight, attention.out_proj.bias)
    copied = with_linear(F.multi_head_attention_forward, linear)
    for query, key in ((q, q), (q, k)):
        expected = F.multi_head_attention_forward(query, key, key, *given)
        found = copied(query, key, key, *given)
        assert all(map(torch.equal, found, expected))
    assert calls == [(12, 4), (4, 4), (4, 4), (8, 4), (4, 4)]
    assert copied.__globals__ is not vars(F)
    assert F.linear is torch._C._nn.linear
