"""Names of layers: where a layer stands among others, and how its name is shortened."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple


def text_width(text: str) -> int:
    """Return how many columns a text takes: wide (CJK) letters two, combining marks none."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def shorten_name(name: str, width: int = 28) -> str:
    """Shorten a layer's name at the front, at a dot where one is near, so that its end stays readable.

    Args:
        name: the qualified name.
        width: the most columns it may take.

    Returns:
        The name, or "…" and the end of it.

    Examples:
        >>> shorten_name("encoder.layer.0.attention.output.LayerNorm", 20)
        '…output.LayerNorm'
    """
    if text_width(name) <= width:
        return name
    start = len(name)
    while start > 0 and text_width(name[start - 1 :]) < width:
        start -= 1
    tail = name[start:]
    dot = tail.find(".")
    if 0 <= dot < len(tail) // 2:
        tail = tail[dot + 1 :]
    return f"…{tail}"


def in_prose(layer: str) -> str:
    """Return a layer's name as a sentence takes it: a bare number is called a layer, no name the model.

    Examples:
        >>> in_prose("encoder.norm"), in_prose("4"), in_prose("")
        ('encoder.norm', 'layer 4', 'the model')
    """
    return f"layer {layer}" if layer.isdecimal() else layer or "the model"


def role_of(layer: str) -> str:
    """Return the role of a layer: its name with the first integer replaced by ``*``.

    Layers of one role do the same in different blocks.

    Examples:
        >>> role_of("model.layers.12.mlp.down_proj")
        'model.layers.*.mlp.down_proj'
    """
    parts = layer.split(".")
    for index, part in enumerate(parts):
        if part.isdecimal():
            return ".".join([*parts[:index], "*", *parts[index + 1 :]])
    return layer


def block_of(layer: str) -> int | None:
    """Return the block of a layer, the first integer in its name, or None outside any block."""
    return next((int(part) for part in layer.split(".") if part.isdecimal()), None)


class Spot(NamedTuple):
    """Where a layer stands among others.

    Attributes:
        stack: what stands before the block number, None outside any block.
        block: the block number, None outside any block.
        role: the name with the block number replaced by ``*``.
    """

    stack: str | None
    block: int | None
    role: str


def spots(layers: Sequence[str]) -> dict[str, Spot]:
    """Return where each layer stands: as `role_of` and `block_of` say, less integers that number no blocks.

    Within a `Sequential` nearly all names begin with the same integer (``0.encoder.layer.3.output``): an
    integer that most names share, and that another one follows, is read as part of the name.

    Args:
        layers: distinct names.

    Returns:
        Layer to spot.
    """
    skip = ""
    while True:
        found = {layer: _spot(layer, skip) for layer in layers}
        counts = Counter((spot.stack, spot.block) for spot in found.values() if spot.block is not None)
        if not counts:
            return found
        (stack, block), most = counts.most_common(1)[0]
        mine = [layer for layer, spot in found.items() if (spot.stack, spot.block) == (stack, block)]
        head = f"{stack}.{block}." if stack else f"{block}."
        deeper = sum(_spot(layer, head).block is not None for layer in mine)
        if most <= 0.75 * len(layers) or deeper <= 0.75 * most or most < 2:
            return found
        skip = head


def _spot(layer: str, skip: str) -> Spot:
    """Return where a layer stands if its name's beginning `skip` numbers nothing."""
    head = skip if layer.startswith(skip) else ""
    role = head + role_of(layer[len(head) :])
    stack, star, _ = role.partition("*")
    return Spot(stack.rstrip("."), block_of(layer[len(head) :]), role) if star else Spot(None, None, layer)


def role_labels(roles: Sequence[str]) -> dict[str, str]:
    """Return a short, distinct label for each role: the end of its name, as long as it needs to be.

    An ending that all share is left out. A layer outside any block keeps its name.

    Args:
        roles: distinct roles (`role_of`).

    Returns:
        Role to label.

    Examples:
        >>> role_labels(["layer.*.attention.output.LayerNorm", "layer.*.output.LayerNorm"])
        {'layer.*.attention.output.LayerNorm': 'attention.output', 'layer.*.output.LayerNorm': 'output'}
        >>> role_labels(["layers.*.self_attn.q_proj", "layers.*.mlp.down_proj"])
        {'layers.*.self_attn.q_proj': 'q_proj', 'layers.*.mlp.down_proj': 'down_proj'}
    """
    tails = {role: role.rpartition("*.")[2] for role in roles if "*" in role}
    if len(set(tails.values())) < len(tails):
        tails = {role: role for role in tails}
    ends = {tail.rpartition(".")[2] for tail in tails.values()}
    if len(tails) > 1 and len(ends) == 1 and all("." in tail for tail in tails.values()):
        tails = {role: tail.rpartition(".")[0] for role, tail in tails.items()}
    every = list(tails.values())
    short = {
        role: _distinct_end(tail, [other for other in every if other != tail]) for role, tail in tails.items()
    }
    labels = {role: short.get(role, role).removesuffix(".*") for role in roles}
    return labels if len(set(labels.values())) == len(labels) else {role: role for role in roles}


def _distinct_end(name: str, others: Sequence[str]) -> str:
    """Return the shortest dotted end of a name that ends none of the others; the name where there is none."""
    parts = name.split(".")
    for size in range(1, len(parts)):
        end = ".".join(parts[-size:])
        if end != "*" and not any(f".{other}".endswith(f".{end}") for other in others):
            return end
    return name
