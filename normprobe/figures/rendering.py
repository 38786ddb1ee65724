"""A section's figure, ready for the report: words, inline SVG, files."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from normprobe.figures import registry
from normprobe.figures.data import layer_statistics
from normprobe.figures.data import norm_panel as panel_numbers
from normprobe.figures.drawing.canvas import PNG_DPI, Facts, Plan, new_figure
from normprobe.figures.drawing.palette import house_style
from normprobe.figures.drawing.png_renderer import write_png
from normprobe.figures.drawing.svg import draw_svg, quiet_fonts, write_alone, write_inline
from normprobe.figures.plots import divergence_profile, norm_panel
from normprobe.figures.plots.norm_panel_marks import Marks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from normprobe.divergence import Differences
    from normprobe.divergence.differences import HasDifferences
    from normprobe.tables.frames import HasTables, Tables

_AT_A_TIME = 8
PANEL = "norm_panel"  # drawn of one layer, so that it is no section and not in the registry


@dataclass(frozen=True)
class Rendered:
    """One drawn figure with its words.

    Attributes:
        name: which figure, also the stem of its files.
        title: heading of its section.
        caption: what to look at, with **bold** runs.
        aria_label: one sentence for those who do not see it.
        facts: what the caption states, by name: numbers, names of layers and sites, tuples of these, None
            where undefined.
    """

    name: str
    title: str
    caption: str
    aria_label: str
    # Not compared: they may hold NaN, by which a figure would differ from itself.
    facts: Facts = field(compare=False)
    _plan: Plan = field(repr=False, compare=False)
    _drawn: Figure | None = field(repr=False, compare=False)
    _tree: ET.Element = field(repr=False, compare=False)
    _overlay: tuple[tuple[str, str, tuple[float, float, float, float]], ...] = field(
        repr=False, compare=False
    )

    def svg(self, prefix: str, link: Callable[[str], str | None] | None = None) -> str:
        """The figure as inline SVG, coloured by the page's CSS variables.

        The variables are --ink --muted --grid --band --surface --acc, --in and --out for the two sites that
        every layer has, and what `palette.site_variables` names for further ones.

        Args:
            prefix: begins every id; letters, digits, - and _, beginning with a letter, unique in the page.
            link: from a layer's name to where a click on it leads, or None for nowhere.

        Returns:
            An `<svg>` element with `role="img"`; rectangles of class `hit` carry a `<title>` per layer.
        """
        overlay = [_hit(text, box, link(layer) if link else None) for layer, text, box in self._overlay]
        return write_inline(self._tree, prefix, self.aria_label, overlay)

    @property
    def _figure(self) -> Figure:
        """The figure; drawn anew where its charts are another's by now."""
        with house_style():
            return self._drawn or _draw(self._plan)[0]

    def save(self, directory: str | Path, *, png: bool = True, svg: bool = True) -> list[Path]:
        """Write the figure in light colours as files named after it.

        Args:
            directory: where; made if it does not exist.
            png: at 150 dpi.
            svg: with text as text.

        Returns:
            The files written.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        if png:
            written.append(folder / f"{self.name}.png")
            with house_style(), quiet_fonts():
                write_png(self._drawn or _draw(self._plan)[0], written[-1], PNG_DPI)
        if svg:
            written.append(folder / f"{self.name}.svg")
            written[-1].write_text(write_alone(self._tree, self.aria_label), encoding="utf-8")
        return written


def render(tables: Tables | HasTables, name: str, *, layer: str | None = None) -> Rendered:
    """Draw one figure of the report.

    Args:
        tables: a recording or its tables.
        name: one of `available(tables)`, or "norm_panel".
        layer: which norm, for "norm_panel".

    Returns:
        The figure and its words.

    Raises:
        ValueError: there is no figure of this name, the recording lacks what it needs, or the panel's layer
            is not named or did not fire.
    """
    source = layer_statistics.tables_of(tables)
    entry = registry.entry_of(name)
    if name == PANEL:
        if layer is None:
            raise ValueError('render(tables, "norm_panel") needs layer=, the name of a norm')
        plan = norm_panel.plan(source, layer)
    elif entry is not None:
        plan = entry.plot.plan(source)
    else:
        names = [entry.name for entry in registry.FIGURES]
        raise ValueError(f"no figure {name!r}; there are {', '.join([*names, PANEL])}")
    return rendered(plan, name)


def rendered(plan: Plan, name: str) -> Rendered:
    """Draw a plan.

    Args:
        plan: a plan.
        name: what to call the figure, also the stem of its files.

    Returns:
        The figure and its words.
    """
    with house_style():
        return _rendered(plan, name, *_draw(plan))


def _draw(plan: Plan) -> tuple[Figure, list[Axes]]:
    """A new figure of a plan, and its axes; under `house_style`."""
    figure, axes = new_figure(plan)
    plan.draw(axes)
    return figure, axes


def _rendered(plan: Plan, name: str, figure: Figure, axes: list[Axes], *, kept: bool = True) -> Rendered:
    """A drawn plan with its words, under `house_style`; `kept` if the figure shows nothing else later."""
    tree = draw_svg(figure)
    words = (plan.title, plan.caption, plan.aria_label, plan.facts)
    return Rendered(name, *words, plan, figure if kept else None, tree, _overlay(plan, figure, axes))


def render_panels(tables: Tables | HasTables, layers: Iterable[str]) -> Iterator[Rendered]:
    """Draw the panels of norms, one after the other on the same charts, which takes a tenth of the time.

    Args:
        tables: a recording or its tables.
        layers: names of norms that fired.

    Yields:
        For each norm what `render(tables, "norm_panel", layer=...)` returns.

    Raises:
        ValueError: no norm of such a name fired.
    """
    source, marks = layer_statistics.tables_of(tables), Marks()
    charts: tuple[Figure, list[Axes]] | None = None
    names = list(layers)
    # Some at a time: to set the style takes a millisecond, and it is not to be set while others run.
    for start in range(0, len(names), _AT_A_TIME):
        drawn = []
        with house_style():
            for layer in names[start : start + _AT_A_TIME]:
                found = panel_numbers.summarize(source, layer)
                plan = norm_panel.plan_of(found)
                charts = charts or new_figure(plan)
                marks.clear(charts[1])
                norm_panel.draw(charts[1], found, marks)
                # Not kept: these charts are the next norm's.
                drawn.append(_rendered(plan, PANEL, *charts, kept=False))
        yield from drawn


def render_divergence(comparison: HasDifferences | Differences) -> Rendered:
    """Draw the figure of a comparison.

    Args:
        comparison: what `compare` or `compare_live` returned.

    Returns:
        The figure and its words.
    """
    return rendered(divergence_profile.plan(comparison), "divergence_profile")


def available(tables: Tables | HasTables) -> list[str]:
    """The names of the section figures this recording supports, in the report's order.

    Args:
        tables: a recording or its tables.

    Returns:
        Names for `render`; without "norm_panel", which every norm supports.
    """
    source = layer_statistics.tables_of(tables)
    return [entry.name for entry in registry.FIGURES if entry.plot.supported(source)]


def _overlay(
    plan: Plan, figure: Figure, axes: list[Axes]
) -> tuple[tuple[str, str, tuple[float, float, float, float]], ...]:
    """Each hit's layer, text and box (x, y, width, height in points, from the top) over all charts."""
    if not plan.hits:
        return ()
    height = figure.bbox.height
    left, right = min(ax.bbox.x0 for ax in axes), max(ax.bbox.x1 for ax in axes)
    foot, top = min(ax.bbox.y0 for ax in axes), max(ax.bbox.y1 for ax in axes)
    boxes = []
    for hit in plan.hits:
        ends = axes[hit.chart].transData.transform([(hit.low, hit.low), (hit.high, hit.high)])
        if plan.hit_axis == "x":
            x0, x1, y0, y1 = ends[0][0], ends[1][0], foot, top
        else:
            (y0, y1), (x0, x1) = sorted((ends[0][1], ends[1][1])), (left, right)
        # SVG counts from the top, matplotlib from the foot.
        boxes.append((hit.layer, hit.text, (x0, height - y1, x1 - x0, y1 - y0)))
    return tuple(boxes)


def _hit(text: str, box: tuple[float, float, float, float], href: str | None) -> ET.Element:
    """An invisible rectangle with a tooltip, within a link if there is one."""
    x, y, width, height = (f"{value:.1f}" for value in box)
    rect = ET.Element("rect", {"class": "hit", "x": x, "y": y, "width": width, "height": height})
    # Without a fill a shape takes no pointer, unless it says so.
    rect.attrib |= {"fill": "none", "pointer-events": "all"}
    ET.SubElement(rect, "title").text = text
    if href is None:
        return rect
    anchor = ET.Element("a", {"href": href})
    anchor.append(rect)
    return anchor
