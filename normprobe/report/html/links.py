"""Where on the page a layer is found, and its name as a link to that place."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from normprobe.report.display_text import display_name
from normprobe.report.html.templating import breakable, polished

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from normprobe.tables.frames import Tables


@dataclass(frozen=True)
class Anchors:
    """The places of layers on one page, by number, so that no name is ever part of an id.

    Attributes:
        number: a running number per layer of the ledger, in order of execution.
        panels: layers that have a panel.
        rows: layers that have a row in the table.
        shown: the name to show for each layer.
    """

    number: Mapping[str, int]
    shown: Mapping[str, str]
    panels: frozenset[str] = field(default_factory=frozenset)
    rows: frozenset[str] = field(default_factory=frozenset)

    def href(self, layer: str) -> str | None:
        """The link of a layer: its panel, else its row in the table, else None."""
        if layer in self.panels:
            return f"#panel-{self.number[layer]}"
        return f"#layer-{self.number[layer]}" if layer in self.rows else None

    def panel(self, layer: str) -> str | None:
        """The link of a layer's panel, or None where it has none."""
        return f"#panel-{self.number[layer]}" if layer in self.panels else None

    def name(self, layer: str) -> Markup:
        """The layer's name as code, linked where it has a place; a bare number is called a layer."""
        href = self.href(layer)
        code = Markup("<code>{}</code>").format(breakable(self.shown.get(layer, layer)))
        link = Markup('<a href="{}">{}</a>').format(href, code) if href else code
        return Markup("layer {}").format(link) if layer.isdecimal() else link

    def sentence(self, text: str, strong: Iterable[str] = ()) -> Markup:
        """Escape a sentence, link the layer names in it and set some of its words in bold.

        Args:
            text: the sentence.
            strong: patterns, without groups, of words to set in bold, such as the finding's value.
        """
        bold = list(strong)
        # The pattern has one group, so that split puts names at odd places.
        pieces = self._names.split(text) if self._names else [text]
        return Markup("").join(
            self.name(piece) if i % 2 else _embolden(piece, bold) for i, piece in enumerate(pieces)
        )

    @cached_property
    def _names(self) -> re.Pattern[str] | None:
        """Matches a layer's whole name; one-letter and purely numeric names are not looked for in prose."""
        names = [n for n in self.number if len(n) > 1 and not n.isdigit()]
        if not names:
            return None
        names.sort(
            key=len, reverse=True
        )  # the first alternative that fits wins: the longest name has to be it
        # Not within a longer name: layer.1 is no part of layer.10, nor of layer.1.norm.
        return re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, names))})(?![\w]|\.\w)")


def number_layers(tables: Tables) -> dict[str, int]:
    """Number the layers: fired ones in order of execution, then the others as the ledger lists them."""
    fired = tables.layers.drop_duplicates("layer").sort_values("depth", kind="stable")["layer"]
    ordered = dict.fromkeys([*map(str, fired), *map(str, tables.ledger["layer"])])
    return {layer: i for i, layer in enumerate(ordered)}


def shown_names(tables: Tables, layers: Iterable[str]) -> dict[str, str]:
    """The name to show for each layer."""
    return {layer: display_name(tables, layer) for layer in layers}


def _embolden(text: str, patterns: list[str]) -> Markup:
    """Escape a text and set what matches a pattern in bold."""
    text = polished(text)
    if not patterns:
        return escape(text)
    # A group within a pattern would add a piece of its own, hence none may have one.
    pieces = re.split(f"({'|'.join(patterns)})", text)
    return Markup("").join(
        Markup("<b>{}</b>").format(piece) if i % 2 else escape(piece) for i, piece in enumerate(pieces)
    )
