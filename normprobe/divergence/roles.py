"""Layers of one shape under two sets of names: which role of the one is which of the other."""

from __future__ import annotations

from collections.abc import Sequence

from normprobe.formatting import spots
from normprobe.vocabulary import OUTPUT

# The words by which projections are known; what else a name says differs from one implementation to another.
_WORDS = {
    "query": ("query", "q", "q_proj", "q_lin", "wq", "to_q", "linear_q", "q_linear"),
    "key": ("key", "k", "k_proj", "k_lin", "wk", "to_k", "linear_k", "k_linear"),
    "value": ("value", "v", "v_proj", "v_lin", "wv", "to_v", "linear_v", "v_linear"),
    OUTPUT: (OUTPUT, "o", "o_proj", "out_proj", "out_lin", "wo", "to_out", "proj", "out"),
    "gate": ("gate", "gate_proj", "w1"),
    "up": ("up", "up_proj", "w3", "fc1", "lin1", "c_fc", "intermediate", "dense_h_to_4h", "wi"),
    "down": ("down", "down_proj", "w2", "fc2", "lin2", "dense_4h_to_h"),
}
_WORD_OF = {name: word for word, names in _WORDS.items() for name in names}


def pair_roles(a: Sequence[str], b: Sequence[str]) -> list[tuple[str, str, str]]:
    """Pair equally many layers of one shape.

    Args:
        a: names in order of execution.
        b: names in order of execution, as many.

    Returns:
        Pairs and how they were found: `role` where the roles have as many layers each, matched by known
        words where both names have one, else by order; `order` where only the order is left.
    """
    roles_a, roles_b = _roles(a), _roles(b)
    found = _same_words(roles_a, roles_b)
    rest_a = [role for role in roles_a if role not in found]
    rest_b = [role for role in roles_b if role not in found.values()]
    sizes = [[len(roles[role]) for role in rest] for roles, rest in ((roles_a, rest_a), (roles_b, rest_b))]
    if sizes[0] != sizes[1]:
        return [(x, y, "order") for x, y in zip(a, b, strict=True)]
    found |= dict(zip(rest_a, rest_b, strict=True))
    return [
        (x, y, "role")
        for mine, other in found.items()
        for x, y in zip(roles_a[mine], roles_b[other], strict=True)
    ]


def _roles(layers: Sequence[str]) -> dict[str, list[str]]:
    """The layers of each role, roles and layers in order of execution."""
    places = spots(layers)
    found: dict[str, list[str]] = {}
    for layer in layers:
        found.setdefault(places[layer].role, []).append(layer)
    return found


def _same_words(a: dict[str, list[str]], b: dict[str, list[str]]) -> dict[str, str]:
    """Roles whose names end in a known word for the same thing, of as many layers each."""
    words_a, words_b = _words(a), _words(b)
    return {
        role: words_b[word]
        for word, role in words_a.items()
        if word in words_b and len(a[role]) == len(b[words_b[word]])
    }


def _words(roles: dict[str, list[str]]) -> dict[str, str]:
    """Known word to role, where one role only has it."""
    found: dict[str, list[str]] = {}
    for role in roles:
        # From the end, where a name says what the layer is; before stands what it is in.
        known = [_WORD_OF[part] for part in reversed(role.lower().split(".")) if part in _WORD_OF]
        if known:
            found.setdefault(known[0], []).append(role)
    # A word that two roles bear tells neither.
    return {word: mine[0] for word, mine in found.items() if len(mine) == 1}
