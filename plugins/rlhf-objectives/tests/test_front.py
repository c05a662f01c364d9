"""Fronts by hand: the lattice, dominance, volumes; and what holds of any points."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st
from rlhf_objectives.front import front, hypervolume, weights

POINTS = st.lists(st.tuples(*[st.integers(-1, 4)] * 3), min_size=1, max_size=6)


def test_the_lattice_by_hand() -> None:
    assert list(weights(2, 3)) == [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    three = list(weights(3, 3))
    assert len(three) == 6  # C(2 + 2, 2)
    assert all(sum(weight) == 1 for weight in three)


def test_the_front_by_hand() -> None:
    """(1, 1) is below (2, 1), and equal points are both on it."""
    assert front([(0, 3), (2, 1), (1, 1), (2, 1)]) == [0, 1, 3]


def test_the_volume_by_hand() -> None:
    """Rows of width 3, 2 and 1; a box of 2 x 3 x 4; points on the axes cover nothing."""
    assert hypervolume([(1, 3), (2, 2), (3, 1)], (0, 0)) == 6
    assert hypervolume([(2, 3, 4)], (0, 0, 0)) == 24
    assert hypervolume([(5, 0), (0, 5)], (0, 0)) == 0
    assert hypervolume([(3, 2), (2, 4)], (1, -1)) == 2 * 3 + 1 * 5 - 1 * 3  # less what both cover


@given(POINTS)
def test_the_volume_is_the_number_of_dominated_cells(points: list[tuple[int, ...]]) -> None:
    cells = sum(any(x > a and y > b and z > c for x, y, z in points) for a, b, c in product(range(4), repeat=3))
    assert hypervolume(points, (0, 0, 0)) == cells


@given(POINTS)
def test_the_front_alone_has_all_of_the_volume(points: list[tuple[int, ...]]) -> None:
    best = [points[place] for place in front(points)]
    assert hypervolume(best, (0, 0, 0)) == hypervolume(points, (0, 0, 0))
