"""The state dict of a model in what training saved: below a key, behind a prefix, beside bookkeeping."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

_WITHIN = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
"""Parts that compiling and sharding put anywhere into a name."""

_PARTS = re.compile(
    "(encoder|decoder|head|classifier|feature|layer|block|embedding|norm|stem)s?|attn|attention|mlp"
)
"""What a part of a larger model is called: its weights are no wrapper's."""

_COPIES = frozenset({"ema", "teacher", "target", "momentum", "average", "averaged", "shadow", "swa"})
"""What a second copy of the weights is called: of two that fit, the other one is meant."""

_USUAL = ("", "state_dict", "model_state_dict", "model_state", "model", "module", "net", "student")
_DEEPEST, _MOST_NAMED = 3, 4


@dataclass(frozen=True)
class Fitted:
    """A state dict under the names of a model.

    Attributes:
        state: names to tensors.
        matching: how many of the model's names it has.
        said: what was taken off or left aside, a clause each.
    """

    state: dict[str, Tensor]
    matching: int
    said: tuple[str, ...] = ()


def find_state(content: Any, own: Iterable[str]) -> Fitted | None:
    """The state dict of a model in what a file holds, the one that fits best; None if there is none.

    Args:
        content: what a file holds: names to tensors, or that below keys.
        own: the model's names.
    """
    names = list(own)
    found = [(path, fit(state, names), beside) for path, state, beside in _state_dicts(content, ())]
    if not found:
        return None
    # Of two that fit alike the usual name, and never a copy: an average of the weights fits as well.
    path, best, beside = min(found, key=lambda entry: (-entry[1].matching, _rank(entry[0])))
    twins = [".".join(other) for other, fitted, _ in found if other != path and fitted.matching == len(names)]
    said = list(best.said)
    if path:
        said.insert(0, f"read below {'.'.join(path)}")
    aside = [name for name in beside if ".".join((*path[:-1], name)) not in twins]
    if aside:
        said.append(f"left aside {_listed(aside)}")
    if twins and best.matching == len(names):
        said.append(f"{_listed(twins)} would fit as well")
    return Fitted(best.state, best.matching, tuple(said))


def _state_dicts(
    content: Any, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor], list[str]]]:
    """Every mapping of names to tensors: where it lies, its tensors, and the names of what lies beside."""
    # A file may hold mappings within one another without end.
    if not isinstance(content, Mapping) or len(path) > _DEEPEST:
        return
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    plain = [name for name, value in named.items() if not isinstance(value, (Tensor, Mapping))]
    if tensors:
        yield path, tensors, plain
    for name, value in named.items():
        others = [other for other in named if other != name and other not in tensors]
        for below, state, beside in _state_dicts(value, (*path, name)):
            yield below, state, beside if len(below) > len(path) + 1 else [*beside, *others]


def fit(state: Mapping[str, Tensor], own: Sequence[str]) -> Fitted:
    """A state dict under a model's names: without a prefix that all of them lack, or with one they have.

    Args:
        state: names to tensors.
        own: the model's names.
    """
    known = set(own)
    state = _without_parts(state, known)
    votes = _prefixes(state, known)
    whole = [prefix for prefix, count in votes.items() if count == len(known) and _is_wrapper(prefix)]
    # A prefix behind which the whole model is found needs no guess.
    if whole:
        return _stripped(state, known, min(whole, key=lambda prefix: _rank((prefix.rstrip("."),))), whole)
    added = [
        prefix for prefix, count in _prefixes(dict.fromkeys(own), set(state)).items() if count == len(own)
    ]
    if added and added[0]:
        return Fitted(
            {added[0] + name: value for name, value in state.items()},
            len(known),
            (f"{added[0]} put before all names",),
        )
    prefix, count = max(votes.items(), key=lambda vote: vote[1], default=("", 0))
    if prefix and 2 * count > len(known) and _is_wrapper(prefix):  # so that an error names what is missing
        return replace(_stripped(state, known, prefix, ()), matching=count)
    return Fitted(dict(state), votes[""], ())


def foreign_prefix(state: Iterable[str], own: Iterable[str]) -> str:
    """The prefix with which all names of a state dict begin and none of the model's; "" without one."""
    firsts = {name.partition(".")[0] for name in state if "." in name}
    # Several beginnings are the parts of another model, not what one wrapper puts there.
    if len(firsts) != 1:
        return ""
    prefix = f"{firsts.pop()}."
    return "" if any(name.startswith(prefix) for name in own) else prefix


def _without_parts(state: Mapping[str, Tensor], known: set[str]) -> dict[str, Tensor]:
    """Names without what wrappers put into them, unless the model has it, too."""
    # A compiled model bears them in its own names: then they are none of the file's.
    if any(_WITHIN & set(name.split(".")) for name in known):
        return dict(state)
    return {".".join(part for part in name.split(".") if part not in _WITHIN): state[name] for name in state}


def _prefixes(state: Mapping[str, Any], known: set[str]) -> Counter[str]:
    """Beginnings of names, with how many names of the model follow behind them."""
    votes: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in known:
                # Every cut votes: which beginning is the wrapper's shows only over all names.
                votes["".join(f"{part}." for part in parts[:cut])] += 1
    return votes


def _stripped(state: Mapping[str, Tensor], known: set[str], prefix: str, whole: Sequence[str]) -> Fitted:
    inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    outside = [name for name in state if not name.startswith(prefix)]
    # A single number without a dot in its name is a count of training's, not a weight.
    counts = [
        name for name, value in inside.items() if name not in known and "." not in name and value.numel() == 1
    ]
    said = [f"{prefix} taken off all names"] if prefix else []
    if outside or counts:
        said.append(f"left aside {_listed([*counts, *_branches(outside)])}")
    others = [other for other in whole if other != prefix]
    if others:
        said.append(f"{_listed(others)} would fit as well")
    return Fitted({name: inside[name] for name in inside if name not in counts}, len(known), tuple(said))


def _branches(names: Iterable[str]) -> list[str]:
    """What names outside a prefix begin with, with how many there are of each."""
    counts = Counter(name.partition(".")[0] for name in names)
    return [f"{first} ({count:,} tensors)" if count > 1 else first for first, count in counts.items()]


def _is_wrapper(prefix: str) -> bool:
    parts = [part for part in prefix.split(".") if part]
    return not any(_PARTS.fullmatch(part) or part.isdecimal() for part in parts)


def _rank(path: Sequence[str]) -> tuple[bool, int, int]:
    """What sorts places of the same fit: copies last, usual names first."""
    name = ".".join(path)
    copied = bool(set(re.split(r"[._]", name.lower())) & _COPIES)
    usual = path[-1] if path else ""
    return copied, _USUAL.index(usual) if usual in _USUAL else len(_USUAL), name.count(".")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
