"""A mode is put below those of others and taken out from among them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext

import normprobe
from normprobe.capture.functions import function_mode
from normprobe.capture.hooks.torch_internals import ModeAside, ModesAside, put_below, take_out


class Quiet(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def stack() -> list[TorchFunctionMode]:
    """The modes of this thread, the lowest first."""
    return [torch._C._get_function_stack_at(index) for index in range(torch._C._len_torch_function_stack())]


@pytest.fixture(autouse=True)
def _no_default_device() -> Iterator[None]:
    yield
    # Of a default device that was taken back torch before 2.9 keeps None, and asks that for its device.
    if getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", True) is None:
        del torch._GLOBAL_DEVICE_CONTEXT.device_context


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    assert stack() == []
    yield
    assert stack() == []


def test_alone() -> None:
    mode = Quiet()
    put_below(mode)
    assert stack() == [mode]
    take_out(mode)


def test_below_others() -> None:
    mode, first, second = Quiet(), Quiet(), Quiet()
    with first, second:
        put_below(mode)
        assert stack() == [mode, first, second]
    assert stack() == [mode]
    take_out(mode)


def test_below_a_device_that_a_block_sets() -> None:
    mode, other = Quiet(), Quiet()
    with torch.device("meta"), other:
        put_below(mode)
        assert [type(held) for held in stack()] == [Quiet, DeviceContext, Quiet]
        assert stack()[0] is mode
        assert torch.ones(1).is_meta
    assert stack() == [mode]
    with torch.device("meta"):
        assert stack()[0] is mode
        assert torch.ones(1).is_meta
    assert stack() == [mode]
    take_out(mode)


def test_above_a_default_device() -> None:
    mode, other = Quiet(), Quiet()
    torch.set_default_device("meta")
    try:
        with other:
            put_below(mode)
            assert [type(held) for held in stack()] == [DeviceContext, Quiet, Quiet]
            assert stack()[1:] == [mode, other]
            assert torch.ones(1).is_meta
    finally:
        torch.set_default_device(None)
    assert stack() == [mode]
    torch.set_default_device("meta")
    torch.set_default_device(None)
    assert stack() == [mode]
    take_out(mode)


def test_taken_out_from_anywhere() -> None:
    mode, others = Quiet(), [Quiet(), Quiet()]
    for place in range(3):
        with torch.device("cpu"), others[0]:
            if place == 0:
                put_below(mode)
            elif place == 1:
                torch.overrides._push_mode(mode)
            with others[1]:
                if place == 2:
                    torch.overrides._push_mode(mode)
                assert mode in stack()
                take_out(mode)
                assert stack()[1:] == others


def test_taking_out_what_is_not_there_changes_nothing() -> None:
    take_out(Quiet())
    with Quiet() as other:
        take_out(Quiet())
        assert stack() == [other]


def test_aside_no_mode_sees_anything_and_all_come_back_in_their_order() -> None:
    mode, other = Quiet(), Quiet()
    torch.set_default_device("meta")
    try:
        with other:
            put_below(mode)
            before = stack()
            with ModesAside():
                assert stack() == []
                assert not torch.ones(1).is_meta
                with ModesAside():
                    assert stack() == []
            assert stack() == before
            with pytest.raises(ValueError, match="no"), ModesAside():
                raise ValueError("no")
            assert stack() == before
            assert torch.ones(1).is_meta
            take_out(mode)
    finally:
        torch.set_default_device(None)


def test_one_mode_aside_leaves_the_others_in_place() -> None:
    mode, others = Quiet(), [Quiet(), Quiet()]
    with others[0], others[1]:
        put_below(mode)
        with ModeAside(mode):
            assert stack() == others
        assert stack() == [mode, *others]
        take_out(mode)
        with ModeAside(mode):
            assert stack() == others
        assert stack() == others


def test_other_threads_keep_their_modes() -> None:
    found: list[int] = []
    with Quiet(), ModesAside():
        thread = threading.Thread(target=lambda: found.append(len(stack())))
        thread.start()
        thread.join()
    assert found == [0]


class Named(TorchFunctionMode):
    """Notes which functions it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


def test_a_probe_does_not_see_what_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x, own = nn.Sequential(nn.Linear(10, 5), nn.LayerNorm(5)).eval(), torch.randn(32, 10), []
    handle = function_mode._Mode.__torch_function__

    def noted(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        own.append(func.__name__)
        return handle(self, func, types, args, kwargs)

    monkeypatch.setattr(function_mode._Mode, "__torch_function__", noted)
    with normprobe.Probe(model):
        model(x)
    assert own == ["linear", "layer_norm"]


def test_a_mode_of_the_users_sees_no_statistic() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(10, 5), nn.LayerNorm(5)).eval(), torch.randn(32, 10)
    with normprobe.Probe(model), Named() as mode:
        model(x)
    computed = {"clone", "detach", "to", "sum", "square", "var_mean", "stride", "data_ptr", "isfinite"}
    assert {"linear", "layer_norm"} <= set(mode.seen)
    assert not computed & set(mode.seen)


class Scaled(Tensor):
    """A tensor whose functions give ten times what torch's do: its numbers are what these say."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **(kwargs or {}))
        return found.mul(10) if func is Tensor.to else found


def test_a_subclass_of_tensor_keeps_its_own_functions() -> None:
    values = torch.ones(2, 3).as_subclass(Scaled)
    with ModesAside():
        assert float(values.to(torch.float64).sum()) == 60
