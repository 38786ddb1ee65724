"""Where layers stand, by their names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normprobe.formatting import block_of, role_labels, role_of, shorten_name, spots, text_width


@pytest.mark.parametrize(
    ("layer", "role", "block"),
    [
        ("model.layers.12.mlp.down_proj", "model.layers.*.mlp.down_proj", 12),
        ("features.3.block.0.1", "features.*.block.0.1", 3),
        ("4", "*", 4),
        ("bn1", "bn1", None),
        ("", "", None),
    ],
)
def test_the_first_integer_is_the_block(layer, role, block):
    assert role_of(layer) == role
    assert block_of(layer) == block


@given(st.text(min_size=1, max_size=60), st.integers(8, 40))
def test_a_shortened_name_fits_and_keeps_its_end(name, width):
    short = shorten_name(name, width)
    assert text_width(short) <= max(width, text_width(name) if short == name else width)
    assert name.endswith(short.removeprefix("…"))


def test_wide_letters_count_twice():
    assert text_width("標準a") == 5
    assert text_width(shorten_name("標" * 30, 20)) <= 20


def test_an_integer_that_all_names_share_numbers_no_block():
    layers = ["0.embeddings.norm", *(f"0.layer.{i}.norm" for i in range(4)), "2.linear"]
    found = spots(layers)
    assert [found[layer].block for layer in layers] == [None, 0, 1, 2, 3, 2]
    assert found["0.layer.3.norm"].role == "0.layer.*.norm"
    assert found["0.layer.3.norm"].stack == "0.layer"


def test_blocks_stay_where_only_some_share_an_integer():
    found = spots([f"layers.{i}.{j}.norm" for i in range(3) for j in range(2)])
    assert {spot.role for spot in found.values()} == {"layers.*.0.norm", "layers.*.1.norm"}


def test_stacks_of_the_same_shape_are_told_apart():
    labels = role_labels(["encoder.layers.*.norm", "decoder.layers.*.norm"])
    assert sorted(labels.values()) == ["decoder.layers", "encoder.layers"]


@given(st.lists(st.from_regex(r"[ab](\.[ab*]){0,3}", fullmatch=True), unique=True, max_size=8))
def test_labels_of_roles_are_distinct(roles):
    roles = [role for role in roles if role.count("*") <= 1]
    assert len(set(role_labels(roles).values())) == len(roles)


def test_a_layer_outside_any_block_keeps_its_name():
    assert role_labels(["model.layers.*.norm", "model.norm"])["model.norm"] == "model.norm"
