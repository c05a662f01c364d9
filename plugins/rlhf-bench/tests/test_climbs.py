"""Gold over a training: read of a stage's curves, averaged over seeds, and set beside the baseline's."""

from __future__ import annotations

from dataclasses import replace
from math import log, sqrt
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rlhf_bench.climbs import climbs, course, read, table

from rlhf_plugins import Curve, StageResult

FLAT = {"kl": [0.0] * 5, "gold": [1.0] * 5, "proxy": [0.0] * 5}


def stage(**curves: list[tuple[int, float]]) -> StageResult:
    return StageResult(curves={name: Curve(points) for name, points in curves.items()})


def test_a_stage_is_read_at_the_steps_that_log_all_three() -> None:
    kl, gold, reward = [(2, 0.0), (4, 0.51234), (6, 2.0)], [(2, 1.0), (4, 1.5)], [(2, -1.0), (4, 3.0), (8, 9.0)]
    found = read(stage(kl=kl, gold_reward=gold, reward=reward))
    assert found == {"kl": [0.0, 0.5123], "gold": [1.0, 1.5], "proxy": [-1.0, 3.0]}


@pytest.mark.parametrize("first", [0.5, -0.5])
def test_a_stage_that_did_not_start_at_its_reference_is_not_read(first: float) -> None:
    assert read(stage(kl=[(2, first)], gold_reward=[(2, 1.0)], reward=[(2, 1.0)])) is None


def test_a_stage_without_gold_is_not_read() -> None:
    assert read(stage(kl=[(2, 0.0)], reward=[(2, 1.0)])) is None


def test_the_top_and_the_end_are_of_moving_means() -> None:
    """Over 3, 4, 5, 4 and 3 points: golds 2, 3, 3.2, 4 and 3.33; KLs 1, 1.5, 2, 2.5 and 3.

    The start is the first point itself.
    """
    found = course({"kl": [0, 1, 2, 3, 4], "gold": [0, 6, 0, 6, 4], "proxy": [0, 1, 2, 3, 4]})
    assert found == pytest.approx((0.0, 4.0, 10 / 3, 2.5, 3.0, 0.0, 3.0))


def test_algorithms_are_set_beside_the_baseline_seed_by_seed() -> None:
    higher = {**FLAT, "gold": [1.0, 1.0, 3.5, 1.0, 1.0]}  # means of 1.83, 1.625, 1.5, 1.625 and 1.83
    rows = [row("ppo", 1, FLAT), row("ppo", 2, FLAT), row("other", 1, higher), row("other", 2, FLAT)]
    baseline, other = climbs(suite(), rows)
    assert (baseline.highest, baseline.end) == (None, None)
    assert other.highest is not None
    assert other.end is not None
    assert other.highest.mean == pytest.approx((5.5 / 3 - 1) / 2)
    assert other.end.mean == pytest.approx((5.5 / 3 - 1) / 2)
    assert other.fit is None  # of a KL that stays at 0


def test_an_algorithm_of_which_a_run_has_no_curve_is_left_out() -> None:
    rows = [row("ppo", 1, FLAT), row("ppo", 2, None), row("dpo", 1, None)]
    assert climbs(suite(), rows) == []
    assert table([]) is None


def test_gaos_form_is_fitted_to_the_mean_of_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds whose gains are .1 above and below d (0.8 - 0.4 log d), which has its top at d = e."""
    monkeypatch.setattr("rlhf_bench.laws.moving_mean", np.array)
    kl = [0.0, *(0.02 * n * n for n in range(1, 40))]
    gain = [0.0, *(sqrt(k) * (0.8 - 0.4 * log(sqrt(k))) for k in kl[1:])]
    rows = [
        row("ppo", seed, {"kl": kl, "gold": [1.0, *(1 + own + off for own in gain[1:])], "proxy": gain})
        for seed, off in ((1, 0.1), (2, -0.1))
    ]
    (found,) = climbs(suite(), rows)
    assert found.fit is not None
    assert (found.fit.a, found.fit.b, found.fit.turns) == (
        pytest.approx(0.8, abs=0.01),
        pytest.approx(0.4, abs=0.01),
        True,
    )
    shown = table([found])
    assert shown is not None
    assert shown.rows[0][-1] == f"{found.fit.peak_kl:.1f}"
    beyond = table([replace(found, fit=found.fit._replace(turns=False))])
    assert beyond is not None
    assert beyond.rows[0][-1] == "-"  # a top that no point reached is not named


def row(algorithm: str, seed: int, curve: Any) -> dict[str, Any]:
    return {"task": "clean", "algorithm": algorithm, "seed": seed, "status": "finished", "climb": curve}


def suite() -> Any:
    return SimpleNamespace(tasks={"clean": ""}, baseline="ppo")
