"""Axes, labels and the axis of depth, without a recording."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from normprobe.figures.drawing.axes import foot, fraction, log_limits, log_ticks, push_apart, use_log
from normprobe.figures.drawing.depth_axis import DepthAxis, prepare


def test_ticks_are_1_2_5_under_two_decades_and_powers_of_ten_above():
    assert log_ticks(0.9, 21) == pytest.approx([1, 2, 5, 10, 20])
    assert log_ticks(0.008, 12_000) == pytest.approx([0.01, 0.1, 1, 10, 100, 1000, 10_000])
    assert len(log_ticks(1e-30, 1e30)) <= 8


@given(st.floats(1e-200, 1e200), st.floats(1.0, 1e50))
def test_every_axis_has_two_ticks(low, ratio):
    limits = log_limits([low, low * ratio])
    assert limits[0] < low
    assert limits[1] > low * ratio
    assert len(log_ticks(*limits)) >= 2


def test_limits_leave_out_what_a_logarithm_cannot_show():
    assert log_limits([0.0, -1.0, np.nan, np.inf]) == (0.1, 10.0)
    assert log_limits([0.0, 5.0])[0] > 1


@given(st.lists(st.floats(0, 100), max_size=12), st.floats(1, 30))
def test_labels_are_pushed_apart_in_order_and_within_room(wanted, gap):
    placed = push_apart(wanted, gap, 0, 100)
    ordered = np.sort(placed)
    room = min(gap, 100 / max(1, len(wanted) - 1))
    assert len(placed) == len(wanted)
    assert (np.diff(ordered) >= room - 1e-6).all()
    assert all(-1e-6 <= at <= 100 + 1e-6 for at in placed)
    assert list(np.argsort(wanted, kind="stable")) == list(np.argsort(placed, kind="stable"))


def test_labels_with_room_stay_where_they_are():
    assert push_apart([80.0, 10.0, 40.0], 12, 0, 100) == [80.0, 10.0, 40.0]


def test_colliding_labels_share_the_way():
    assert push_apart([50.0, 50.0], 10, 0, 100) == pytest.approx([45.0, 55.0])


def test_zero_stands_at_the_foot_of_a_logarithmic_axis():
    ax = Figure().add_subplot()
    use_log(ax.yaxis, (0.1, 10))
    foot(ax, [3.0], "#000000")
    (mark,) = ax.lines
    assert mark.get_xdata() == [3.0]
    assert 0 < mark.get_ydata()[0] < 0.1
    assert fraction(ax, 1.0) == pytest.approx(0.5)


def axis_of(*layers):
    return DepthAxis(layers, ("layer_norm",) * len(layers))


def test_blocks_are_runs_and_others_stand_alone():
    depth = axis_of("emb", "h.0.a", "h.0.b", "h.1.a", "h.1.b", "norm")
    assert [(run.first, run.last, run.block) for run in depth.runs] == [
        (0, 0, None),
        (1, 2, 0),
        (3, 4, 1),
        (5, 5, None),
    ]
    assert depth.lines(spread(depth)) == ("h.*.a", "h.*.b")


def spread(depth):
    return pd.Series({role: float(index) for index, role in enumerate(dict.fromkeys(depth.roles))})


def test_only_the_four_widest_roles_get_a_line():
    depth = axis_of(*(f"h.{i}.{role}" for i in range(3) for role in "abcdef"))
    assert depth.lines(spread(depth)) == ("h.*.c", "h.*.d", "h.*.e", "h.*.f")


def test_without_integers_kinds_are_joined_but_not_over_gaps():
    depth = DepthAxis(("a", "b", "c", "d"), ("layer_norm", "layer_norm", "rms_norm", "layer_norm"))
    assert len(set(depth.roles)) == 3
    assert depth.roles[0] == depth.roles[1]
    assert depth.labels(depth.roles) == dict.fromkeys(depth.roles, "")


@pytest.mark.parametrize("blocks", [1, 24, 25, 240])
def test_at_most_24_block_numbers(blocks):
    ax = Figure().add_subplot()
    prepare(ax, axis_of(*(f"h.{i}.n" for i in range(blocks))), last=True)
    assert 1 <= len(ax.get_xticks()) <= 24


def test_stacks_and_layers_outside_blocks_are_named_below():
    ax = Figure(figsize=(10, 3)).add_subplot()
    names = [
        *(f"encoder.layer.{i}.n" for i in range(6)),
        "encoder.norm",
        *(f"decoder.layer.{i}.n" for i in range(6)),
    ]
    prepare(ax, axis_of(*names), last=True)
    assert {text.get_text() for text in ax.texts} == {"encoder.layer.*", "encoder.norm", "decoder.layer.*"}
