"""A mode is put below those of others and taken out from among them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext

from normprobe.capture.hooks.torch_internals import put_below, take_out


class Quiet(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def stack() -> list[TorchFunctionMode]:
    """The modes of this thread, the lowest first."""
    return [torch._C._get_function_stack_at(index) for index in range(torch._C._len_torch_function_stack())]


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
