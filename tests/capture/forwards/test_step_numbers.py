"""Which step a forward was of."""

from itertools import accumulate

import pytest

from normprobe.capture.forwards.step_numbers import StepNumbers


@pytest.mark.parametrize(
    "steps",
    [
        [(0, 1), (1, 1), (2, 1), (3, 1)],
        [(10, 2), (11, 2), (12, 5), (13, 2), (14, 2)],
        [(0, 1), (5, 1), (6, 1), (6, 3), (9, 0), (10, 1)],
        [(3, 0), (4, 2), (5, 2)],
    ],
)
def test_each_forward_is_of_the_step_that_ended_behind_it(steps: list[tuple[int, int]]) -> None:
    numbers = StepNumbers()
    for (step, _), calls in zip(steps, accumulate(count for _, count in steps), strict=True):
        numbers.end(step, calls)
    expected = [step for step, count in steps for _ in range(count)]
    assert [numbers.of(call) for call in range(len(expected))] == expected
    assert numbers.of(len(expected)) is None


def test_outside_of_steps_the_step_before_counts() -> None:
    numbers = StepNumbers()
    numbers.end(100, 3)
    numbers.end(101, 6)
    assert [numbers.before(call) for call in range(8)] == [None, None, None, 100, 100, 100, 101, 101]


def test_steps_that_are_alike_take_one_entry_and_forgotten_ones_none() -> None:
    numbers = StepNumbers()
    for step in range(1000):
        numbers.end(step, 2 * (step + 1))
    assert len(numbers._runs) == 1
    numbers.forget()
    assert numbers.of(10) is None
    numbers.end(1000, 2002)
    assert numbers.of(2001) == 1000
