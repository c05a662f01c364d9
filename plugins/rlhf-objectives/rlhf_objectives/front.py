"""Points in the space of objectives: weights to sweep, which points no other beats, and how much they cover.

Arithmetic; more of every objective is better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Point = Sequence[float]


def weights(objectives: int, points: int) -> Iterator[tuple[float, ...]]:
    """The simplex lattice: all weights that are multiples of 1 / (points - 1) and sum to 1 (Das and Dennis 1998)."""
    for shares in _shares(objectives, points - 1):
        yield tuple(share / (points - 1) for share in shares)


def _shares(parts: int, whole: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (whole,)
        return
    for first in range(whole, -1, -1):
        yield from ((first, *rest) for rest in _shares(parts - 1, whole - first))


def dominates(one: Point, other: Point) -> bool:
    """Whether it is nowhere worse and somewhere better."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def front(points: Sequence[Point]) -> list[int]:
    """The places of the points that no other dominates."""
    return [i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)]


def hypervolume(points: Sequence[Point], origin: Point) -> float:
    """The volume between the origin and the points: of what at least one of them dominates (Zitzler and Thiele 1998).

    Points that are not above the origin everywhere add nothing. It slices along the last objective.
    """
    above = [tuple(point) for point in points if all(a > o for a, o in zip(point, origin, strict=True))]
    if not above:
        return 0.0
    if len(origin) == 1:
        return max(point[0] for point in above) - origin[0]
    volume, floor = 0.0, origin[-1]
    for level in sorted({point[-1] for point in above}):
        volume += (level - floor) * hypervolume([p[:-1] for p in above if p[-1] >= level], origin[:-1])
        floor = level
    return volume
