"""The current forward of each thread and its state: the same in Python and in the extension."""

from __future__ import annotations

import threading
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from normprobe import vocabulary
from normprobe.capture.forwards import current_forward
from normprobe.kernels import dispatch

WAYS = [current_forward, *([dispatch.compiled()] if dispatch.compiled() else [])]


@pytest.fixture(params=WAYS, ids=["python", "extension"][: len(WAYS)])
def way(request: pytest.FixtureRequest) -> Any:
    return request.param


def forward(way: ModuleType, name: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, state=way.CurrentForward().begin(name, True, 2))


class TestForwardState:
    def test_it_begins_with_nothing(self, way: ModuleType) -> None:
        state = way.CurrentForward().begin("owner", False, 2)
        assert (state.owner, state.measured, state.session, state.recent, state.threads) == (
            "owner",
            False,
            None,
            None,
            1,
        )
        assert not state.is_open(0)

    def test_layers_are_open_until_they_are_left(self, way: ModuleType) -> None:
        state = way.CurrentForward().begin(None, True, 3)
        for layer in (3, 700, 3):
            state.enter(layer)
        assert [layer for layer in range(1000) if state.is_open(layer)] == [3, 700]
        state.leave(3)
        state.leave(3)
        assert [layer for layer in range(1000) if state.is_open(layer)] == [700]

    def test_repeats_are_counted_by_layer_and_site(self, way: ModuleType) -> None:
        state = way.CurrentForward().begin(None, True, 3)
        tensors = [(5, 0), (5, 1), (5, 0), (900, 1), (5, 0), (5, 2), (900, 2), (5, 2)]
        assert [state.next_repeat(*tensor) for tensor in tensors] == [0, 0, 1, 0, 2, 0, 0, 1]
        assert not state.is_open(5)

    @pytest.mark.parametrize("site", [-1, 3])
    def test_a_site_that_the_forward_does_not_have_is_an_error(self, way: ModuleType, site: int) -> None:
        with pytest.raises(IndexError, match=f"site {site} is not one of the forward's 3"):
            way.CurrentForward().begin(None, True, 3).next_repeat(0, site)

    def test_the_extension_numbers_sites_as_the_vocabulary_does(self) -> None:
        extension = pytest.importorskip("normprobe.kernels._cpu")
        assert vocabulary.site_of(vocabulary.INPUT).number == extension.INPUT
        assert vocabulary.site_of(vocabulary.OUTPUT).number == extension.OUTPUT


class TestCurrentForward:
    def test_each_thread_has_its_own(self, way: ModuleType) -> None:
        inside, seen = way.CurrentForward(), {}
        mine = forward(way, "mine")
        inside.enter(mine)

        def elsewhere() -> None:
            seen["before"] = inside.forward
            inside.enter(theirs := forward(way, "theirs"))
            seen["inside"] = inside.forward is theirs
            inside.leave()
            seen["after"] = inside.forward

        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
        assert seen == {"before": None, "inside": True, "after": None}
        assert inside.forward is mine

    def test_the_last_one_entered_counts_until_it_is_left_or_all_are(self, way: ModuleType) -> None:
        inside = way.CurrentForward()
        for name in "abc":
            inside.enter(forward(way, name))
        assert inside.forward.name == "c"
        inside.leave()
        inside.leave()
        assert inside.forward is None
        inside.enter(forward(way, "d"))
        inside.clear()
        assert inside.forward is None

    def test_many_threads_at_once(self, way: ModuleType) -> None:
        inside, wrong = way.CurrentForward(), []
        gate = threading.Barrier(12)

        def elsewhere(name: str) -> None:
            gate.wait()
            for turn in range(200):
                inside.enter(forward(way, f"{name} {turn}"))
                if inside.forward.name != f"{name} {turn}":
                    wrong.append(name)
            inside.leave()

        threads = [threading.Thread(target=elsewhere, args=(str(index),)) for index in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


class TestLock:
    def test_a_thread_may_hold_it_twice_and_others_wait(self) -> None:
        lock, order = current_forward.new_lock(), []

        def elsewhere() -> None:
            with lock:
                order.append("they")

        with lock, lock:
            other = threading.Thread(target=elsewhere)
            other.start()
            time.sleep(0.02)
            order.append("I")
        other.join()
        assert order == ["I", "they"]

    def test_it_is_given_up_after_an_error(self) -> None:
        lock = current_forward.new_lock()
        with pytest.raises(ValueError, match="no"), lock:
            raise ValueError("no")
        other = threading.Thread(target=lambda: lock.__enter__() and lock.__exit__(None, None, None))
        other.start()
        other.join(5)
        assert not other.is_alive()

    def test_one_thread_holds_it_at_a_time(self) -> None:
        lock, counts = current_forward.new_lock(), [0, 0]

        def elsewhere() -> None:
            for _ in range(300):
                with lock:
                    counts[0] += 1
                    before = counts[0]
                    time.sleep(0)
                    counts[1] += counts[0] != before

        threads = [threading.Thread(target=elsewhere) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counts == [1200, 0]
