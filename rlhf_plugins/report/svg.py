"""A matplotlib figure as inline SVG in the page's own colours and font.

Figures are drawn in placeholder colours, which become CSS variables: the page, light or dark, sets them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from math import nan
from typing import Any
from xml.etree import ElementTree

import matplotlib.style
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

WIDTH = 5.0  # inches: two plots fit side by side on a page, and one on a phone with its text still legible

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_FONT = re.compile(r"font-family: [^;]*DejaVu[^;]*")

INK, MUTED, GRID, PAPER = "#010101", "#010102", "#010103", "#010104"
SERIES = [f"#0102{index:02x}" for index in range(1, 9)]
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--paper)"} | {
    colour: f"var(--series-{index})" for index, colour in enumerate(SERIES, 1)
}

_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "figure.facecolor": "none",
    "font.size": 9.5,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
}


@dataclass(frozen=True)
class Plot:
    """A titled picture; `caption` says how to read it, `svg` is one element for the body of a page."""

    title: str
    caption: str
    svg: str


def svg(key: str, alt: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """What `draw` puts on a figure of `size` inches; `key` keeps its ids apart from other figures'."""
    with matplotlib.style.context(["default", _STYLE | {"svg.hashsalt": key}]):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        drawn = StringIO()
        canvas, figure.dpi = FigureCanvasSVG(figure), 72
        if layout := figure.get_layout_engine():
            layout.execute(figure)  # savefig would draw everything for it, and then again
        figure.set_layout_engine("none")
        canvas.print_svg(drawn, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    root = _themed(drawn.getvalue(), key)
    # In CSS pixels: half as large again as matplotlib's points, shrunk to fit, but never below legible text.
    root.attrib |= {"width": f"{108 * size[0]:.0f}", "style": f"min-width: {68 * size[0]:.0f}px"}
    root.attrib |= {"id": key, "role": "img", "aria-label": alt}
    del root.attrib["height"]
    return ElementTree.tostring(root, encoding="unicode")


def short(name: str) -> str:
    """A name with at most 30 letters, the middle left out: a longer one would leave its plot no room."""
    return name if len(name) <= 30 else f"{name[:15]}\N{HORIZONTAL ELLIPSIS}{name[-14:]}"


def or_nan(value: float | None) -> float:
    """A gap in a line or an absent bar, where there is no number."""
    return nan if value is None else value


def _themed(drawn: str, key: str) -> ElementTree.Element:
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(drawn)
    _drop_styles(root)
    for element in root.iter():
        for name, value in element.attrib.items():
            element.set(name, _attribute(name, value, key))
    return root


def _drop_styles(root: ElementTree.Element) -> None:
    """Drop matplotlib's `* {...}` rule, which inside a page would be a rule for the whole page."""
    for parent in root.iter(f"{{{_SVG}}}defs"):
        for rule in parent.findall(f"{{{_SVG}}}style"):
            parent.remove(rule)


def _attribute(name: str, value: str, key: str) -> str:
    if name == "id":
        return f"{key}-{value}"
    if name == f"{{{_XLINK}}}href":
        return value.replace("#", f"#{key}-", 1)
    for placeholder, variable in _VARIABLES.items():
        value = value.replace(placeholder, variable)
    return _FONT.sub("font-family: var(--sans)", value.replace("url(#", f"url(#{key}-"))
