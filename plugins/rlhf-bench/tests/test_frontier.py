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


def test_a_frontier_is_of_its_own_task_and_of_what_has_a_kl() -> None:
    """Between 0 and a KL of 1/2, from 1 to 3, and from 5 to 1 elsewhere; a task without a base has none."""
    knobs = {f"{name} beta={value}": (name, value) for name in ("dpo", "ipo") for value in (1.0, 2.0)}
    tasks = dict.fromkeys(("t", "elsewhere", "baseless"), "")
    suite = Suite("s", "", (1,), {"flops": 1.0}, "base", tasks, dict.fromkeys(knobs, ""), knobs, ())

    def line(task: str, name: str, kl: float | None, gold: float) -> Line:
        return Line(task, name, (1,), Estimate(gold), None, None, None, {"kl": kl})

    lines = [line("t", "base", None, 1.0), line("t", "dpo beta=1.0", 0.5, 3.0), line("t", "dpo beta=2.0", None, 9.0)]
    lines += [line("elsewhere", "base", None, 5.0), line("elsewhere", "dpo beta=1.0", 0.5, 1.0)]
    found = frontiers(suite, [*lines, line("baseless", "dpo beta=1.0", 0.5, 3.0)])
    assert [(one.task, one.algorithm, one.up_to, one.area) for one in found] == [
        ("t", "dpo", 0.5, 2.0),
        ("elsewhere", "dpo", 0.5, 5.0),
    ]
