"""Which layer stands for which: by name, role, order and width, and what is fused."""

from __future__ import annotations

import pytest

from normprobe.divergence.fused_linears import LayerShape
from normprobe.divergence.matching import FiredLayers, MatchedLayers, match_layers

SQUARE, WIDE, NARROW = LayerShape(False, 8, 8), LayerShape(False, 8, 32), LayerShape(False, 32, 8)
NORM, FUSED = LayerShape(True, 8, 8), LayerShape(False, 8, 24)


def fired(shapes: dict[str, LayerShape], reads: dict[str, str] | None = None, **silent: str) -> FiredLayers:
    named = {layer: (reads or {}).get(layer, layer).encode() for layer in shapes}
    return FiredLayers(shapes, named, silent)


def pairs(found: MatchedLayers) -> dict[str, str]:
    return {pair.a: pair.b for pair in found.pairs}


def bert(blocks: int = 2) -> dict[str, LayerShape]:
    names = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value"}
    layers = {"embeddings.LayerNorm": NORM}
    for block in range(blocks):
        layers |= {f"encoder.layer.{block}.{name}": SQUARE for name in names.values()}
        layers |= {
            f"encoder.layer.{block}.attention.output.dense": SQUARE,
            f"encoder.layer.{block}.attention.output.LayerNorm": NORM,
            f"encoder.layer.{block}.intermediate.dense": WIDE,
            f"encoder.layer.{block}.output.dense": NARROW,
            f"encoder.layer.{block}.output.LayerNorm": NORM,
        }
    return layers


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name,
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: f"bert.{name}",
        lambda name: f"model.text.{name}",
    ],
)
def test_names_match_without_the_prefixes_of_wrappers(rename) -> None:  # type: ignore[no-untyped-def]
    a = bert()
    b = {rename(name): shape for name, shape in a.items()}
    for first, second, expected in ((a, b, rename), (b, a, None)):
        found = match_layers(fired(first), fired(second))
        assert not found.unmatched
        assert {pair.by for pair in found.pairs} == {"name"}
        if expected is not None:
            assert pairs(found) == {name: rename(name) for name in a}


def test_a_head_of_one_model_alone_is_left_over() -> None:
    found = match_layers(
        fired({**bert(), "classifier": SQUARE}), fired({f"bert.{n}": s for n, s in bert().items()})
    )
    assert [u.layer for u in found.unmatched] == ["classifier"]
    assert found.unmatched[0].of == "a"
    assert (
        "a has 1 and b 0 further layers of this shape (Linear of 8 → 8 features)" in found.unmatched[0].reason
    )


def test_roles_match_by_the_words_of_their_names_and_not_by_order() -> None:
    other = {"ln_emb": NORM}
    for block in range(2):
        start = f"blocks.{block}."
        # Keys first here: order alone would pair queries with keys.
        other |= {f"{start}attn.{name}": SQUARE for name in ("wk", "wq", "wv", "wo")}
        other |= {f"{start}ln1": NORM, f"{start}fc1": WIDE, f"{start}fc2": NARROW, f"{start}ln2": NORM}
    found = match_layers(fired(bert()), fired(other))
    assert not found.unmatched
    matched = pairs(found)
    assert matched["encoder.layer.1.attention.self.query"] == "blocks.1.attn.wq"
    assert matched["encoder.layer.0.attention.self.key"] == "blocks.0.attn.wk"
    assert matched["encoder.layer.1.attention.output.dense"] == "blocks.1.attn.wo"
    assert matched["embeddings.LayerNorm"] == "ln_emb"
    assert matched["encoder.layer.0.output.LayerNorm"] == "blocks.0.ln2"
    assert {pair.by for pair in found.pairs} == {"role"}
    assert [pair.a for pair in found.pairs] == list(bert())


def test_layers_without_roles_match_in_order() -> None:
    flat = {str(2 * at): shape for at, shape in enumerate(bert().values())}
    found = match_layers(fired(bert()), fired(flat))
    assert not found.unmatched
    assert list(pairs(found).values()) == list(flat)
    assert "order" in {pair.by for pair in found.pairs}


def test_equal_names_of_other_widths_do_not_match() -> None:
    found = match_layers(fired({"up": WIDE, "down": NARROW}), fired({"up": SQUARE, "down": NARROW}))
    assert pairs(found) == {"down": "down"}
    assert {u.layer for u in found.unmatched} == {"up"}
    assert len(found.unmatched) == 2


def test_fused_projections_are_declared_in_both_directions() -> None:
    shapes = bert()
    reads = {name: f"x{name.split('.')[2]}" for name in shapes if ".self." in name}
    other: dict[str, LayerShape] = {"ln_emb": NORM}
    for block in range(2):
        other |= {f"h.{block}.qkv": FUSED, f"h.{block}.proj": SQUARE, f"h.{block}.ln1": NORM}
        other |= {f"h.{block}.fc1": WIDE, f"h.{block}.fc2": NARROW, f"h.{block}.ln2": NORM}
    for found, whole, part in (
        (match_layers(fired(shapes, reads), fired(other)), "b", "a"),
        (match_layers(fired(other), fired(shapes, reads)), "a", "b"),
    ):
        declared = {(u.of, u.layer): u.reason for u in found.unmatched}
        assert len(declared) == 8
        assert declared[part, "encoder.layer.1.attention.self.key"] == f"fused into h.1.qkv of {whole}"
        assert declared[whole, "h.0.qkv"].startswith(
            "fused: does the work of encoder.layer.0.attention.self.query,"
        )
        assert len(found.pairs) == 11
    matched = pairs(match_layers(fired(shapes, reads), fired(other)))
    assert matched["encoder.layer.1.attention.output.dense"] == "h.1.proj"


def test_a_layer_as_wide_as_several_is_not_fused_where_they_read_other_tensors() -> None:
    found = match_layers(fired(bert()), fired({"big": FUSED}))
    assert not any("fused" in u.reason for u in found.unmatched)


def test_a_layer_that_did_not_fire_in_the_other_is_named_with_its_status() -> None:
    found = match_layers(fired({"a": SQUARE, "b": NORM}), fired({"a": SQUARE}, b="bypassed"))
    assert found.unmatched == (("a", "b", "bypassed in b"),)


def test_models_that_are_layers_themselves_match() -> None:
    assert pairs(match_layers(fired({"": SQUARE}), fired({"inner": SQUARE}))) == {"": "inner"}
    assert not match_layers(fired({"": SQUARE}), fired({"": WIDE})).pairs
