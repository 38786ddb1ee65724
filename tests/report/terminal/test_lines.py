"""What fits into the columns of a terminal."""

from __future__ import annotations

from normprobe.formatting import text_width
from normprobe.report.terminal.lines import Terminal, padded

LAYERS = ["encoder.layer.11.attention.output.LayerNorm", "fc"]


def test_a_column_of_names_is_as_wide_as_it_needs_to_be() -> None:
    names, width = Terminal.of(120, True).names(LAYERS, 40)
    assert (names, width) == (LAYERS, len(LAYERS[0]) + 2)
    assert Terminal.of(None, True).names(LAYERS, 400) == (names, width)


def test_names_are_shortened_at_the_front_where_there_is_less_room() -> None:
    names, width = Terminal.of(80, True).names(LAYERS, 50)
    assert width == 30
    assert names[0].startswith("…")
    assert names[0].endswith("output.LayerNorm")
    assert text_width(names[0]) <= 28


def test_some_of_a_name_is_left_however_little_room_there_is() -> None:
    names, width = Terminal.of(80, True).names(LAYERS, 100)
    assert (names[0], width) == ("…LayerNorm", 14)


def test_wide_letters_take_two_columns() -> None:
    assert text_width(padded("层norm", 12)) == 12


def test_lines_hang_under_the_first() -> None:
    lines = Terminal.of(80, True).wrap("word " * 30, "    ", "  ")
    assert [len(line) - len(line.lstrip()) for line in lines] == [4, 6]
    assert Terminal.of(None, True).wrap("word " * 30, "    ", "  ") == ["    " + "word " * 30]
