"""Hooks have one lifetime, leave tensors alone, and do nothing in copies."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import nn

from normprobe.capture.hooks.handles import Hook, Hooks, others_behind


def _hook_tables(module: nn.Module) -> dict[str, Any]:
    return {
        name: dict(value) for name, value in vars(module).items() if "hooks" in name and value is not None
    }


def test_hooks_are_called_in_order_and_leave_the_tensors_alone() -> None:
    module, x, calls = nn.Linear(2, 2), torch.randn(3, 2), []
    expected = module(x)
    hooks = Hooks()
    hooks.before(module, lambda m, args, kwargs: calls.append(("before", m, args[0] is x, kwargs)))
    hooks.after(module, lambda m, args, kwargs, output: calls.append(("after", m, output)) or output + 1)  # type: ignore[func-returns-value]
    found = module(x)
    assert torch.equal(found, expected)
    assert [entry[0] for entry in calls] == ["before", "after"]
    assert calls[0][1:] == (module, True, {})
    assert torch.equal(calls[1][2], expected)


def test_keyword_arguments_are_seen() -> None:
    module, x, seen = nn.Linear(2, 2), torch.randn(3, 2), []
    hooks = Hooks()
    hooks.before(module, lambda m, args, kwargs: seen.append(kwargs["input"] is x))
    module(input=x)
    assert seen == [True]


def test_the_input_is_seen_behind_hooks_already_there_and_the_output_ahead_of_them() -> None:
    module, seen = nn.Identity(), []
    module.register_forward_pre_hook(lambda m, args: (args[0] + 1,))
    module.register_forward_hook(lambda m, args, output: output * 10)
    hooks = Hooks()
    hooks.before(module, lambda m, args, kwargs: seen.append(float(args[0])))
    hooks.after(module, lambda m, args, kwargs, output: seen.append(float(output)))
    assert float(module(torch.tensor(1.0))) == 20
    assert seen == [2, 2]


def test_what_is_last_stays_last_whoever_comes_later() -> None:
    module, seen = nn.Identity(), []
    hooks = Hooks()
    hooks.before(module, lambda m, args, kwargs: seen.append(float(args[0])), last=True)
    hooks.after(module, lambda m, args, kwargs, output: seen.append(float(output)), last=True)
    hooks.after(module, lambda m, args, kwargs, output: seen.append(-float(output)), last=True)
    hooks.keep_last()
    assert not hooks.keep_last()
    module.register_forward_pre_hook(lambda m, args: (args[0] + 1,))
    module.register_forward_hook(lambda m, args, output: output * 10)
    assert hooks.keep_last()
    assert float(module(torch.tensor(1.0))) == 20
    assert seen == [2, 20, -20]
    hooks.remove()
    assert len(module._forward_hooks) == len(module._forward_pre_hooks) == 1


def test_once_is_called_ahead_of_all_others_and_no_more() -> None:
    module, seen = nn.Identity(), []
    module.register_forward_hook(lambda m, args, output: output * 10)
    hooks = Hooks()
    hooks.once(module, lambda m, args, kwargs, output: seen.append(float(output)))
    assert [float(module(torch.tensor(1.0))) for _ in range(2)] == [10, 10]
    assert seen == [1]


def test_others_behind_a_module_are_those_of_no_probe() -> None:
    module, hooks = nn.Identity(), Hooks()
    hooks.after(module, lambda *_: None)
    assert not others_behind(module)
    handle = module.register_forward_hook(lambda m, args, output: None)
    assert others_behind(module)
    handle.remove()
    assert not others_behind(module)


def test_remove_restores_every_table() -> None:
    module = nn.Linear(2, 2)
    own = module.register_forward_hook(lambda m, args, output: None)
    before = _hook_tables(module)
    hooks = Hooks()
    hooks.before(module, lambda *_: None)
    hooks.after(module, lambda *_: None, always=True)
    assert _hook_tables(module) != before
    hooks.remove()
    assert _hook_tables(module) == before
    hooks.remove()
    assert _hook_tables(module) == before
    own.remove()


@pytest.mark.parametrize("always", [True, False])
def test_after_an_exception_only_if_always(always: bool) -> None:
    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("no")

    module, seen = Failing(), []
    hooks = Hooks()
    hooks.after(module, lambda m, args, kwargs, output: seen.append(output), always=always)
    with pytest.raises(ValueError, match="no"):
        module(torch.ones(1))
    assert seen == ([None] if always else [])


def test_copies_do_nothing() -> None:
    called: list[int] = []
    hook = Hook(lambda *_: called.append(1))
    hook()
    for twin in (copy.copy(hook), copy.deepcopy(hook), pickle.loads(pickle.dumps(hook))):
        assert isinstance(twin, Hook)
        assert twin(1, 2) is None
    assert called == [1]


def test_a_module_with_hooks_can_be_copied_and_saved_whatever_they_hold() -> None:
    module, called = nn.Linear(2, 2), []
    unpicklable = (index for index in range(3))
    hooks = Hooks()
    hooks.before(module, lambda *_: called.append(unpicklable))
    twin = copy.deepcopy(module)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    x = torch.randn(3, 2)
    assert torch.equal(twin(x), loaded(x))
    assert called == []
    module(x)
    assert len(called) == 1


class TestPutAside:
    def around(self) -> tuple[nn.Module, Hooks, list[str]]:
        calls: list[str] = []
        module = nn.Identity()
        module.register_forward_pre_hook(lambda m, args: calls.append("own before"))
        module.register_forward_hook(lambda m, args, output: calls.append("own after"))
        hooks = Hooks()
        hooks.around(module, lambda *_: calls.append("before"), lambda *_: calls.append("after"), inner=True)
        return module, hooks, calls

    def test_nothing_is_called_until_it_is_put_back_where_it_was(self) -> None:
        module, hooks, calls = self.around()
        tables = {name: list(value) for name, value in _hook_tables(module).items()}
        hooks.put_aside({id(module)})
        module(torch.ones(1))
        assert calls == ["own before", "own after"]
        calls.clear()
        hooks.put_back()
        assert {name: list(value) for name, value in _hook_tables(module).items()} == tables
        module(torch.ones(1))
        assert calls == ["own before", "before", "after", "own after"]

    def test_only_what_was_named_and_may_be(self) -> None:
        module, hooks, calls = self.around()
        hooks.around(outer := nn.Identity(), lambda *_: calls.append("outer"), lambda *_: None)
        hooks.put_aside({id(outer)})
        outer(torch.ones(1))
        module(torch.ones(1))
        assert calls == ["outer", "own before", "before", "after", "own after"]

    def test_what_is_aside_is_removed_with_the_rest(self) -> None:
        module, hooks, calls = self.around()
        hooks.put_aside({id(module)})
        hooks.remove()
        hooks.put_back()
        module(torch.ones(1))
        assert calls == ["own before", "own after"]
        assert all(len(value) <= 1 for value in _hook_tables(module).values() if isinstance(value, dict))

    def test_never_again_once_a_second_thread_was_here(self) -> None:
        module, hooks, calls = self.around()
        other = threading.Thread(target=hooks.put_back)
        other.start()
        other.join()
        hooks.put_aside({id(module)})
        module(torch.ones(1))
        assert calls == ["own before", "before", "after", "own after"]
