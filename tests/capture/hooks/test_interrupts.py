"""A Ctrl-C at any moment: leaving goes on to its end, and what a probe changed for a moment is as before."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

import normprobe
from normprobe.capture.hooks.interrupts import NoGrad, finish
from normprobe.capture.hooks.torch_internals import ModesAside, put_below, take_out

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="without timers that signal")


def deep(layers: int = 40) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.BatchNorm1d(4) if at % 4 == 3 else nn.Linear(4, 4) for at in range(layers)])


def hooks_of(model: nn.Module) -> int:
    """Everything that torch holds of hooks, in all of a module's dictionaries."""
    return sum(
        len(held) for module in model.modules() for name, held in vars(module).items() if "_hooks" in name
    )


@pytest.fixture
def timer() -> Iterator[Callable[[float], None]]:
    """A real Ctrl-C, a number of seconds from now."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _tracer_as_before() -> Iterator[None]:
    """Whoever traced before, coverage for one, goes on afterwards."""
    before = sys.gettrace()
    yield
    sys.settrace(before)


class Interrupting:
    """Raises a KeyboardInterrupt before the n-th step that Python takes inside a function and what it calls.

    Attributes:
        taken: how many steps there were.
    """

    def __init__(self, function: str, at: int) -> None:
        self.taken, self._function, self._at = 0, function, at
        self._inside = 0

    def __enter__(self) -> Interrupting:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_name == self._function and "normprobe" in frame.f_code.co_filename:
            self._inside += 1
        if not self._inside:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self.taken += 1
            if self.taken == self._at:
                raise KeyboardInterrupt
        elif event == "return" and frame.f_code.co_name == self._function:
            self._inside -= 1
        return self._step


def interrupted_at(run: Callable[[], None], function: str, places: int) -> int:
    """Run once to count the steps, then again with an interrupt at so many of them, spread over all."""
    run()  # what a probe keeps from its first block makes the later ones shorter
    for _ in range(2):  # Python 3.13 shows the steps of a function from its second call on
        with Interrupting(function, -1) as counting:
            run()
    every = sorted({1 + at * counting.taken // places for at in range(places)})
    for at in every:
        with Interrupting(function, at), pytest.raises(KeyboardInterrupt):
            run()
    return len(every)


@pytest.mark.parametrize("compiled", [False, True])
def test_an_interrupt_while_a_block_is_left_leaves_nothing(compiled: bool) -> None:
    model = deep(16)
    if compiled:
        model.compile(backend="eager")
    probe, blocks = normprobe.Probe(model), [0]

    def block() -> None:
        blocks[0] += 1
        try:
            with probe:
                model(torch.randn(5, 4))
        finally:
            sys.settrace(None)
            assert hooks_of(model) == 0
            assert not _get_current_function_mode_stack()
            assert torch.is_grad_enabled()
            assert torch._dynamo.eval_frame._stance.stance == "default"

    assert interrupted_at(block, "_detach", 40) == 40
    # Each block counts once: that of its buffers is neither lost nor doubled.
    base = probe.recording.tables.ledger_base.set_index("layer")
    assert base.loc["3", "updates"] == blocks[0] == base.loc["3", "firings"]


@pytest.mark.filterwarnings("ignore:nothing was measured")
def test_an_interrupt_while_a_block_is_entered_leaves_nothing() -> None:
    model = deep(16)
    probe = normprobe.Probe(model)

    def block() -> None:
        try:
            with probe:
                pass
        finally:
            sys.settrace(None)
            assert hooks_of(model) == 0

    assert interrupted_at(block, "attach", 60) == 60
    with probe:  # not active
        model(torch.randn(5, 4))
    assert probe.recording.ledger["calls"].tolist() == [1] * 16


def test_a_real_interrupt_while_a_block_is_left(timer: Callable[[float], None]) -> None:
    model = deep(300)
    probe, met = normprobe.Probe(model), 0
    for at in range(12):
        try:
            with probe:
                timer(0.0001 + 0.0002 * at)
            timer(0)
        except KeyboardInterrupt:
            met += 1
        assert hooks_of(model) == 0
    assert met > 2


# Python can raise no interrupt that strikes in a callback of its garbage collector; hypothesis has one.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_real_interrupt_in_a_forward_leaves_gradients_on(timer: Callable[[float], None]) -> None:
    model, x = deep(), torch.randn(5, 4)
    for at in range(40):
        try:
            with normprobe.Probe(model):
                timer(0.001 + 0.0002 * at)
                for _ in range(2000):
                    model(x)
        except KeyboardInterrupt:
            pass
        finally:
            timer(0)
        assert torch.is_grad_enabled()
        assert hooks_of(model) == 0
        assert not _get_current_function_mode_stack()


@pytest.mark.parametrize("function", ["__enter__", "__exit__"])
def test_a_mode_of_gradients_that_a_cut_guard_left_is_put_right(function: str) -> None:
    no_grad = NoGrad()

    def guarded() -> None:
        try:
            with no_grad:
                assert not torch.is_grad_enabled()
        finally:
            sys.settrace(None)
            no_grad.restore(True)
            assert torch.is_grad_enabled()

    assert interrupted_at(guarded, function, 10) == 10


def test_a_mode_of_the_users_is_never_overruled() -> None:
    no_grad = NoGrad()
    with torch.no_grad():
        no_grad.__enter__()  # cut short where gradients were off already
        no_grad.restore(True)
        assert not torch.is_grad_enabled()
        no_grad.restore(True)
        assert not torch.is_grad_enabled()
    others: list[bool] = []
    with no_grad:
        other = threading.Thread(target=lambda: others.append(torch.is_grad_enabled()))
        other.start()
        other.join()
    assert others == [True]


class Mode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("function", ["take_out", "__enter__"])
def test_modes_of_the_users_outlive_an_interrupt(function: str) -> None:
    own, first, second = Mode(), Mode(), Mode()

    def block() -> None:
        with first, second:
            try:
                put_below(own)
                with ModesAside():
                    pass
                take_out(own)
            finally:
                sys.settrace(None)
                take_out(own)
                assert _get_current_function_mode_stack() == [first, second]

    steps = 20 if function == "take_out" else 8
    with Interrupting(function, -1) as counting:
        block()
    for at in range(4, min(counting.taken, steps)):
        with Interrupting(function, at), pytest.raises(KeyboardInterrupt):
            block()


class OwnNorm(nn.Module):
    """Uses its weight in a function that asks torch's modes in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(x, (4,), self.weight)


@pytest.mark.parametrize("cut", ["__enter__", "__exit__"])
def test_a_mode_that_torch_holds_aside_does_not_come_back(cut: str) -> None:
    """Cut as it begins or ends, torch's own block puts the mode back when the traceback is forgotten."""
    cuts = []

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        generator = getattr(frame.f_locals.get("self"), "gen", None)
        name = getattr(getattr(generator, "gi_code", None), "co_name", "")
        return step if frame.f_code.co_name == cut and name == "_pop_mode_temporarily" else None

    def step(frame: FrameType, event: str, argument: Any) -> Any:
        # Once the block has begun, before it has ended.
        if event == ("return" if cut == "__enter__" else "line"):
            cuts.append(cut)
            sys.settrace(None)
            raise KeyboardInterrupt
        return step

    model = nn.Sequential(nn.Linear(4, 4), OwnNorm())
    try:
        with normprobe.Probe(model):
            sys.settrace(trace)
            model(torch.randn(5, 4))
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    assert cuts == [cut]
    assert not _get_current_function_mode_stack()


class Answers(torch.Tensor):
    """Says in Python where its numbers lie, or raises."""

    error: type[BaseException] | None = None

    def data_ptr(self) -> int:
        if Answers.error is not None:
            raise Answers.error
        return super().data_ptr()


def test_an_interrupt_of_a_tensors_own_code_is_raised() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    model[1].register_buffer("steps", torch.zeros(3).as_subclass(Answers))
    x = torch.randn(5, 4)
    try:
        with torch.no_grad(), normprobe.Probe(model) as probe:
            for error in (None, None, None, ValueError):
                Answers.error = error
                model(x)
            Answers.error = KeyboardInterrupt
            with pytest.raises(KeyboardInterrupt):
                model(x)
            Answers.error = None
            model(x)
    finally:
        Answers.error = None
    assert probe.recording.ledger["calls"].tolist() == [6, 6]


def test_every_step_is_finished_and_the_first_error_raised() -> None:
    done: list[str] = []

    def failing() -> None:
        done.append("failing")
        if done.count("failing") < 3:
            raise KeyboardInterrupt(len(done))

    with pytest.raises(KeyboardInterrupt, match=r"^2$"):
        finish(lambda: done.append("first"), failing, lambda: done.append("last"))
    assert done == ["first", "failing", "failing", "failing", "last"]
