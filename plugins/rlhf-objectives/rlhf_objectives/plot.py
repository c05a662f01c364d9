"""Draws policies in the space of objectives, each pair of objectives in a panel of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Points = Mapping[str, Sequence[tuple[float, float]]]  # policy -> objective -> mean and standard error
SIDE = 4.5  # inches of a panel


def draw(file: Path, names: Sequence[str], points: Points, front: Sequence[str]) -> None:
    """Writes an SVG; policies on the front are filled, and joined where there are two objectives.

    Args:
        file: where to.
        names: the names of the objectives.
        points: in their order.
        front: the policies on it.
    """
    pairs = list(combinations(range(len(names)), 2))
    figure = Figure(figsize=(SIDE * len(pairs), SIDE), layout="constrained")
    for axes, (x, y) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        axes.set(xlabel=names[x], ylabel=names[y])
        for name, values in points.items():
            _point(axes, name, values[x], values[y], name in front)
        if len(names) == 2:
            ends = sorted((points[name][0][0], points[name][1][0]) for name in front)
            axes.plot(*zip(*ends, strict=True), color="0.6", zorder=0)
    figure.savefig(file)


def _point(axes: Axes, name: str, x: tuple[float, float], y: tuple[float, float], filled: bool) -> None:
    axes.errorbar(x[0], y[0], xerr=x[1], yerr=y[1], fmt="o", color="C0", mfc="C0" if filled else "white")
    axes.annotate(name, (x[0], y[0]), xytext=(5, 5), textcoords="offset points", fontsize="small")
