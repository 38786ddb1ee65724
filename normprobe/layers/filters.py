"""Filters of layers: what a user may give as `layers` and `kinds`, what they select, and what they miss."""

from __future__ import annotations

import difflib
import fnmatch
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from normprobe.errors import NoLayersError, NormprobeError
from normprobe.layers.layer import Layer, NamedModule
from normprobe.layers.module_attributes import parts_of
from normprobe.vocabulary import ALL_KINDS, DEFAULT, KINDS

LayerFilter = str | type[nn.Module] | Iterable[str | type[nn.Module]] | Callable[[str, nn.Module], bool]
"""Glob patterns over qualified names and classes of modules, one or several, or a predicate."""

_MOST_CLOSE = 3
_CLOSE = 0.4


def check_filters(layers: Any, kinds: Any) -> tuple[Any, Any]:
    """The filters as they can be used again and again: what can be read once only becomes a list.

    Raises:
        NormprobeError: one of them is of another type.
        NoLayersError: there is no such kind.
    """
    if kinds is not None and not isinstance(kinds, str):
        # A generator would be empty the second time that the probe is entered.
        kinds = list(kinds) if isinstance(kinds, Iterable) else [kinds]
        wrong = next((entry for entry in kinds if not isinstance(entry, str)), None)
        if wrong is not None:
            raise NormprobeError(
                f"kinds must be a kind or several of {', '.join(ALL_KINDS)}; got {_shown(wrong)}"
                + ("; layers= takes classes" if isinstance(wrong, type) else "")
            )
    unknown = sorted(wanted_kinds(kinds) - {*ALL_KINDS})
    if unknown:
        choice = ", ".join((*ALL_KINDS, DEFAULT))
        raise NoLayersError(f"unknown kind {', '.join(map(repr, unknown))}; choose from {choice}")
    if layers is not None and not isinstance(layers, str) and not _is_predicate(layers):
        entries = list(layers) if isinstance(layers, Iterable) and not isinstance(layers, type) else [layers]
        wrong = next((entry for entry in entries if not (isinstance(entry, str) or _is_class(entry))), None)
        if wrong is not None:
            raise NormprobeError(
                "layers must be a glob pattern such as 'encoder.*', a class of modules, several of these, or "
                f"a predicate (name, module) -> bool; got {_shown(wrong)}"
            )
        layers = layers if isinstance(layers, type) else entries
    return layers, kinds


def wanted_kinds(kinds: str | Iterable[str] | None) -> frozenset[str]:
    """The kinds that a filter asks for; Linear and norms where it asks for none, or for the default."""
    asked = {DEFAULT} if kinds is None else {kinds} if isinstance(kinds, str) else {*kinds}
    return frozenset(asked - {DEFAULT} | ({*KINDS} if DEFAULT in asked else set()))


def selects(layers: LayerFilter | None, kinds: str | Iterable[str] | None, layer: Layer) -> bool:
    """Whether filters select a layer; a pattern may name it by any of its aliases."""
    if kinds is not None and layer.view.kind not in wanted_kinds(kinds):
        return False
    if layers is None:
        return True
    if callable(layers) and not isinstance(layers, type):
        return bool(layers(layer.name, layer.module))
    return any(_fits(entry, layer) for entry in _entries(layers))


def unmatched(
    layers: LayerFilter | None, every: Sequence[Layer], modules: Sequence[NamedModule]
) -> tuple[str, ...]:
    """A sentence for each of several patterns that is of no layer, for a note: a misspelt one stays unseen.

    Args:
        layers: the filter.
        every: the layers of the model, selected or not.
        modules: its modules, layers or not.
    """
    if layers is None or _is_predicate(layers):
        return ()
    patterns = [entry for entry in _entries(layers) if isinstance(entry, str)]
    lost = [pattern for pattern in patterns if not any(_fits(pattern, layer) for layer in every)]
    return tuple(
        f"layers: {pattern!r} matches no layer"
        + (_not_measured([pattern], modules) or _closest([pattern], None, every))
        for pattern in lost
    )


def nothing_selected(
    layers: LayerFilter | None, kinds: object, every: Sequence[Layer], modules: Sequence[NamedModule] = ()
) -> str:
    """The message of an error: what was asked for, what there is, and the closest names.

    Args:
        layers: the filter by names or classes.
        kinds: the filter by kinds.
        every: the layers of the model.
        modules: its modules, layers or not.
    """
    asked = [] if kinds is None else [f"kinds={kinds!r}"]
    present, hint = ", ".join(sorted({layer.view.kind for layer in every})), ""
    if layers is not None and _is_predicate(layers):
        asked.insert(0, "a predicate")
    elif layers is not None:
        entries = _entries(layers)
        shown = ", ".join(_shown(entry) for entry in entries)
        asked.insert(0, f"layers={shown if isinstance(layers, (str, type)) else f'[{shown}]'}")
        hint = _not_measured(entries, modules if kinds is None else ()) or _closest(
            [entry for entry in entries if isinstance(entry, str)], kinds, every
        )
        if any(isinstance(entry, type) for entry in entries):
            types = [name for name, _ in Counter(layer.type for layer in every).most_common(_MOST_CLOSE)]
            present = f"{present} ({', '.join(types)})"
    return f"{' and '.join(asked)} matches none of {len(every)} layers: there are {present}{hint}"


def _not_measured(entries: Sequence[str | type[nn.Module]], modules: Sequence[NamedModule]) -> str:
    """That what was asked for is in the model, and of a type that is not measured, to go behind a message."""
    for named in modules:
        # Of what holds others these are what was meant.
        if not parts_of(named.module) and any(_fits(entry, named) for entry in entries):
            what = f"{named.names[0]!r} is a {type(named.module).__name__}"
            return f"; {what}: only Linear and norm layers are measured"
    return ""


def _closest(patterns: Sequence[str], kinds: object, every: Sequence[Layer]) -> str:
    """The names closest to some patterns, or an example, to go behind a message."""
    names = [layer.name for layer in every]
    found = (difflib.get_close_matches(pattern, names, _MOST_CLOSE, _CLOSE) for pattern in patterns)
    close = dict.fromkeys(name for some in found for name in some)
    if close:
        return f"; close names: {', '.join(close)}"
    # Of kinds that were not asked for it would be no example.
    return f"; for example {names[0]!r}" if patterns and kinds is None else ""


def _is_predicate(layers: Any) -> bool:
    return callable(layers) and not isinstance(layers, type)


def _is_class(entry: Any) -> bool:
    return isinstance(entry, type) and issubclass(entry, nn.Module)


def _entries(layers: Any) -> list[str | type[nn.Module]]:
    return [layers] if isinstance(layers, (str, type)) else list(layers)


def _fits(entry: str | type[nn.Module], place: Layer | NamedModule) -> bool:
    """Whether a pattern or a class is of a layer or module."""
    if isinstance(entry, type):
        return isinstance(place.module, entry)
    names = (place.name, *place.aliases) if isinstance(place, Layer) else place.names
    # `fnmatchcase`: plain `fnmatch` ignores case on Windows only, and a filter means the same everywhere.
    return any(fnmatch.fnmatchcase(name, entry) for name in names)


def _shown(entry: Any) -> str:
    """What was given, in an error: a text as it is, of anything else the class."""
    if isinstance(entry, type):
        return entry.__name__
    return repr(entry) if isinstance(entry, str) else type(entry).__name__
