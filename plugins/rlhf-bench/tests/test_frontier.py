"""Areas under a frontier, by hand."""

from __future__ import annotations

import pytest
from rlhf_bench.frontier import area, frontiers, table
from rlhf_bench.intervals import Estimate
from rlhf_bench.plots import over_kl, placed
from rlhf_bench.suite import Suite
from rlhf_bench.table import Line


@pytest.mark.parametrize(
    ("points", "up_to", "expected"),
    [
        ([(2.0, 3.0)], 2.0, 2.0),  # a line from 1 to 3
        ([(2.0, 3.0)], 4.0, 2.5),  # then flat
        ([(1.0, 3.0), (2.0, 0.0)], 2.0, 2.5),  # a worse setting further away takes nothing back
        ([(2.0, 3.0)], 1.0, 1.5),  # the first half of the line
        ([(2.0, 3.0)], 0.0, 1.0),
    ],
)
def test_an_area_is_the_mean_of_the_best_within_each_kl(
    points: list[tuple[float, float]], up_to: float, expected: float
) -> None:
    assert area(1.0, points, up_to) == pytest.approx(expected)


def test_algorithms_are_compared_up_to_where_each_of_them_went() -> None:
    knobs = {"dpo beta=1": ("dpo", 1.0), "dpo beta=2": ("dpo", 2.0), "ipo beta=1": ("ipo", 1.0)}
    suite = Suite("s", "", (1,), {"flops": 1.0}, "base", {"t": ""}, dict.fromkeys(knobs, ""), knobs, ())
    points = {"base": (0.0, 1.0), "dpo beta=1": (4.0, 3.0), "dpo beta=2": (1.0, 2.0), "ipo beta=1": (2.0, 2.0)}
    lines = [Line("t", name, (1,), Estimate(gold), None, None, None, {"kl": kl}) for name, (kl, gold) in points.items()]
    dpo, ipo = frontiers(suite, lines)
    assert (dpo.up_to, dpo.sensitivity, dpo.best) == (2.0, 1.0, 1.0)
    assert ipo.area == pytest.approx(1.5)
    shown = placed(suite, lines)
    assert shown == {"base": [(0.0, 1.0)], "dpo": [(1.0, 2.0), (4.0, 3.0)], "ipo": [(2.0, 2.0)]}
    assert '<polyline points="115.0,190.0 340.0,40.0"' in over_kl("t", shown)  # a quarter of 300 beside 40, and half
    found = table([dpo])
    assert found is not None
    assert found.rows == [["t", "dpo", "1.83", "2.00", "1.00", "1"]]  # ((1 + 2) / 2 + (2 + 7 / 3) / 2) / 2
