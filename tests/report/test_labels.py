"""Names of points in a plot cover neither each other nor the points."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from rlhf_plugins.report.labels import Box, place

BOUNDS = Box(0.0, 0.0, 430.0, 270.0)  # about the axes of a page's plot


def test_a_name_is_right_of_its_point_where_there_is_room() -> None:
    (box,) = place({"dpo": (100.0, 100.0)}, BOUNDS).values()
    assert box.left == 107.0
    assert (box.bottom + box.top) / 2 == pytest.approx(100.0)


def test_and_left_of_it_at_the_edge() -> None:
    (box,) = place({"dpo": (425.0, 100.0)}, BOUNDS).values()
    assert box.right == 418.0


@pytest.mark.parametrize("seed", range(5))
def test_names_of_near_points_meet_neither_each_other_nor_a_point(seed: int) -> None:
    near = np.random.default_rng(seed).normal((200, 130), 6, (7, 2))
    points = {f"policy_{i}": (float(x), float(y)) for i, (x, y) in enumerate(near)}
    boxes = place(points, BOUNDS)
    assert not any(one.meets(other) for one, other in combinations(boxes.values(), 2))
    assert all(box.within(BOUNDS) for box in boxes.values())
    assert not any(box.meets(Box(x, y, x + 0.1, y + 0.1)) for box in boxes.values() for x, y in points.values())


def test_an_error_bar_is_not_covered() -> None:
    bar = Box(90.0, 98.0, 130.0, 102.0)
    (box,) = place({"ppo": (100.0, 100.0)}, BOUNDS, [bar]).values()
    assert not box.meets(bar)


def test_a_name_without_room_is_still_placed() -> None:
    assert place({"x" * 200: (5.0, 5.0)}, Box(0.0, 0.0, 10.0, 10.0))
