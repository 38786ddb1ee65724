"""How numbers and samples are written."""

from __future__ import annotations

import doctest

import pandas as pd
import pytest

from normprobe import formatting


@pytest.mark.parametrize("module", [formatting])
def test_the_examples_of_the_docstrings_hold(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (1, "1"),
        (0.0135, "0.0135"),
        (0.29999, "0.3"),
        (9.999, "10"),
        (11.56, "11.6"),
        (85.96, "86"),
        (99.96, "100"),
        (100.0, "100"),
        (999.4, "999"),
        (999.6, "1,000"),
        (2564.4, "2,564"),
        (27346.8, "27,347"),
        (9_999_999, "9,999,999"),
        (1e7, "1 × 10⁷"),
        (0.0001, "0.0001"),
        (0.00001, "1 × 10⁻⁵"),
        (-6.77, "−6.77"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
        (float("nan"), "–"),
        (None, "–"),
        (pd.NA, "–"),
    ],
)
def test_numbers_have_three_significant_digits(value, text):
    assert formatting.format_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.01, "0.01"),
        (0.001, "0.001"),
        (1e-4, "10⁻⁴"),
        (2e-5, "2 × 10⁻⁵"),
        (5, "5"),
        (10_000, "10,000"),
        (100_000, "100,000"),
        (1e6, "10⁶"),
        (-0.5, "−0.5"),
        (0, "0"),
    ],
)
def test_ticks(value, text):
    assert formatting.format_tick(value) == text


def test_ranges():
    assert formatting.format_range(0.2, 31) == "0.2 to 31"
    assert formatting.format_range(1.0001, 1.0002) == "1"
    assert formatting.format_range(float("nan"), 1) == "undefined"


def test_counts_agree_with_their_noun():
    assert formatting.format_count(1, "norm") == "1 norm"
    assert formatting.format_count(2110, "token") == "2,110 tokens"
    assert formatting.format_count(2, "batch") == "2 batches"
    assert formatting.format_count(37, "Linear") == "37 Linear"
    assert formatting.format_count(1234) == "1,234"


@pytest.mark.parametrize(
    ("sample_unit", "count", "word"),
    [("position", 1, "token"), ("position", 2, "tokens"), ("example", 0, "texts"), (None, 2, "samples")],
)
def test_sample_words(sample_unit, count, word):
    assert formatting.sample_word({"unit": "token", "example_unit": "text"}, sample_unit, count) == word


def test_a_sample_is_named_by_its_text_and_place():
    meta = {"unit": "token", "example_unit": "text"}
    assert formatting.name_sample(meta, (35, 0), "position", "class") == "“class” text 35, token 0"
    assert formatting.name_sample(meta, (35, 0), "position") == "text 35, token 0"
    assert formatting.name_sample({"example_unit": "image"}, (3, 0), "example") == "image 3"
    assert formatting.name_sample(meta, (1, 2), "position", "\n") == "“␣” text 1, token 2"


def test_a_sample_of_a_merged_recording_is_named_with_its_part():
    meta = {"unit": "token", "example_unit": "text", "parts": ["day", "night"]}
    name = formatting.name_sample
    assert name(meta, (3, 0), "position", "class", "night") == "“class” text 3 of night, token 0"
    assert name(meta, (3, 0), "example", part="5f0c2a9e-6f7a-4f0e-9d0b-1c2d3e4f5a6b") == "text 3 of 5f0c2a9e"
    assert name({**meta, "parts": ["night"]}, (3, 0), "example", part="night") == "text 3"


def test_long_texts_are_cut_at_the_end():
    assert formatting.shorten_text("a" * 40, 10) == "a" * 9 + "…"
    assert formatting.text_width(formatting.shorten_text("標" * 40, 10)) <= 10
