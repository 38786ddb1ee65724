"""State dicts as training saves them: below keys, behind prefixes, beside bookkeeping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normprobe.errors import ModelError
from normprobe.loading.models.weights import load_weights


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        self.fc = nn.Linear(8, 3)


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()


STATE: dict[str, Tensor] = {
    name: torch.randn(value.shape) if value.is_floating_point() else value + 3
    for name, value in Net().state_dict().items()
}
OPTIMIZER = {
    "state": {0: {"exp_avg": torch.ones(3), "step": torch.tensor(4.0)}},
    "param_groups": [{"lr": 0.1}],
}


def behind(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


OTHER = {name: torch.zeros_like(value) for name, value in STATE.items()}
FILES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "plain": (STATE, ()),
    **{
        f"behind {prefix}": (behind(prefix), (f"{prefix} taken off all names",))
        for prefix in ("model.", "net.", "module.", "student.", "network.", "core.net.", "module.model.")
    },
    "compiled in the middle": (
        {name.replace("body.", "body._orig_mod."): value for name, value in STATE.items()},
        (),
    ),
    "compiled and parallel": (behind("module._orig_mod."), ("module. taken off",)),
    "a trainer's": (
        {"epoch": 3, "model": STATE, "optimizer": OPTIMIZER, "best": 0.5},
        ("read below model", "left aside epoch, optimizer, best"),
    ),
    "a module's ckpt": (
        {
            "epoch": 3,
            "state_dict": behind("model."),
            "optimizer_states": [OPTIMIZER],
            "hyper_parameters": {"lr": 1},
        },
        ("read below state_dict", "model. taken off all names"),
    ),
    "with a loss's weights": (
        {
            "state_dict": {
                **behind("model."),
                "criterion.weight": torch.ones(3),
                "criterion.scale": torch.ones(2),
            }
        },
        ("model. taken off all names", "left aside criterion (2 tensors)"),
    ),
    "an average's": (
        {"n_averaged": torch.tensor(5), **behind("module.")},
        ("module. taken off all names", "left aside n_averaged"),
    ),
    "a count beside plain names": ({**STATE, "steps": torch.tensor(7)}, ("left aside steps",)),
    "numbers beside plain names": ({**STATE, "epoch": 7, "args": "x"}, ("left aside epoch, args",)),
    "with a copy below a key": (
        {"ema": OTHER, "model": STATE},
        ("read below model", "ema would fit as well"),
    ),
    "a copy alone": ({"ema_state": behind("module.", STATE)}, ("read below ema_state",)),
    "with a teacher's": (
        {**behind("teacher.", OTHER), **behind("student.")},
        ("student. taken off all names", "teacher. would fit as well"),
    ),
    "two keys deep": ({"state": {"model": {"module": behind("net.")}}}, ("read below state.model.module",)),
}


def loaded(content: Any, tmp_path: Path, model: nn.Module) -> tuple[str, ...]:
    file = tmp_path / "w.pt"
    torch.save(content, file)
    return load_weights(model, str(file))


@pytest.mark.parametrize("name", FILES)
def test_it_loads_whole_and_says_what_was_taken_off(name: str, tmp_path: Path) -> None:
    content, words = FILES[name]
    model = Net()
    said = loaded(content, tmp_path, model)
    for key, value in model.state_dict().items():
        assert torch.equal(value, STATE[key]), key
    assert len(said) <= 1
    for word in words:
        assert word in said[0]
    if name in {"plain", "compiled in the middle"}:
        assert said == ()


def test_a_wrapper_in_the_model_may_be_missing_in_the_file(tmp_path: Path) -> None:
    model = Wrapped()
    assert "net. put before all names" in loaded(STATE, tmp_path, model)[0]
    assert torch.equal(model.net.fc.weight, STATE["fc.weight"])


REFUSED: dict[str, tuple[Any, str]] = {
    "a part of another model": (behind("encoder."), "all names in the file begin with encoder."),
    "a layer missing": ({k: v for k, v in behind("model.").items() if "fc" not in k}, "fc.weight is missing"),
    "a layer more": (
        {**behind("model."), "model.head.weight": torch.ones(2, 3)},
        "head.weight is not in the model",
    ),
    "more without a prefix": ({**STATE, "head.weight": torch.ones(2, 3)}, "head.weight is not in the model"),
    "other shapes": ({**STATE, "fc.bias": torch.ones(5)}, "fc.bias has shape (5,)"),
    "no tensors": ({"epoch": 3}, "that is no state dict"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(name: str, tmp_path: Path) -> None:
    content, words = REFUSED[name]
    model = Net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError) as error:
        loaded(content, tmp_path, model)
    assert words in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
