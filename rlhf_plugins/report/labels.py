"""Where the names of points go in a plot, so that none covers another or a point."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rlhf_plugins.report.svg import INK, MUTED, short

Bar = tuple[float, float, float, float]
SIZE = 9.1  # points
_WIDE, _TALL = 0.62 * SIZE, 1.3 * SIZE  # of a letter; the page's own font is not known here, so generously
_APART = 7.0  # of a name from its point
_STEPS = 8  # lines of text that a name may be moved by


@dataclass(frozen=True)
class Box:
    """A rectangle, in points."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        """Whether the two share an area."""
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.top <= other.bottom or other.top <= self.bottom)

    def within(self, other: Box) -> bool:
        """Whether it is wholly inside."""
        across = other.left <= self.left and self.right <= other.right
        return across and other.bottom <= self.bottom and self.top <= other.top


def place(points: Mapping[str, tuple[float, float]], bounds: Box, taken: Iterable[Box] = ()) -> dict[str, Box]:
    """A box beside each point in which its name meets no other name, no point and nothing that is `taken`.

    Where every place is taken it is the one nearest to the point that covers no other name.

    Args:
        points: the points by name, in points of the figure.
        bounds: the axes.
        taken: boxes that no name should cover, such as error bars.
    """
    marks = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in points.values()] + list(taken)
    placed: dict[str, Box] = {}
    for name, (x, y) in sorted(points.items(), key=lambda item: (item[1][1], item[1][0])):
        places = list(_around(x, y, max(len(short(name)), 1) * _WIDE))
        inside = [box for box in places if box.within(bounds)] or places
        free = [box for box in inside if not any(box.meets(other) for other in placed.values())] or inside
        placed[name] = next((box for box in free if not any(box.meets(mark) for mark in marks)), free[0])
    return placed


def name_points(axes: Axes, points: Mapping[str, tuple[float, float]], bars: Iterable[Bar]) -> None:
    """Writes a name beside each point, with a thin line to it where that is not near.

    Args:
        axes: with their final limits.
        points: the points by name, in data coordinates.
        bars: the bars of errors, each from a point to another, (x, y, x, y), in data coordinates.
    """
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    FigureCanvasAgg(figure).draw()  # so that the layout is known
    unit = 72 / figure.dpi

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = axes.transData.transform((x, y))
        return float(across) * unit, float(up) * unit

    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    bounds = Box(*at(left, bottom), *at(right, top))
    corners = [(at(*bar[:2]), at(*bar[2:])) for bar in bars]
    lines = [Box(left - 2, bottom - 2, right + 2, top + 2) for (left, bottom), (right, top) in corners]
    where = {name: at(*point) for name, point in points.items()}
    for name, box in place(where, bounds, lines).items():
        x, y = where[name]
        by = (box.left - x, box.bottom - y)
        note = axes.annotate(short(name), points[name], by, textcoords="offset points", annotation_clip=False)
        note.set(ha="left", va="bottom", color=INK, fontsize=SIZE)
        if abs(box.bottom + _TALL / 2 - y) > _TALL:
            line = {"arrowstyle": "-", "color": MUTED, "lw": 0.6, "shrinkA": 0, "shrinkB": 4}
            end = (
                (box.left - x, box.bottom + _TALL / 2 - y)
                if box.left > x
                else (box.right - x, box.bottom + _TALL / 2 - y)
            )
            axes.annotate("", points[name], end, textcoords="offset points", arrowprops=line, annotation_clip=False)


def _around(x: float, y: float, width: float) -> Iterator[Box]:
    """Places right of the point, left of it, then ever further above and below."""
    for step in range(_STEPS):
        for up in (0.0,) if step == 0 else (step * _TALL, -step * _TALL):
            bottom = y + up - _TALL / 2
            for left in (x + _APART, x - _APART - width):
                yield Box(left, bottom, left + width, bottom + _TALL)
            if step:
                yield Box(x - width / 2, bottom, x + width / 2, bottom + _TALL)
