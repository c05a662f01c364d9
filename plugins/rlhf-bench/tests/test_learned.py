"""The Gaussian process of the selector `learned`: its units, its noise, and what of a history it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rlhf_bench.learned import expect

from rlhf_plugins import Choice, Features, Resources, RunError, Situation, component

Row = dict[str, Any]


def row(task: int, score: Any, **features: Any) -> Row:
    return {"task": f"t{task}", "algorithm": "dpo", "score": score, "features": features}


def asked(folder: Path, rows: list[Row], wanted: tuple[str, ...] = ("pairs", "circles"), **features: Any) -> Choice:
    """What is expected of DPO, by a history of these rows."""
    (folder / "history.json").write_text(json.dumps(rows))
    selector = component("selector", "learned", history=str(folder / "history.json"), wanted=list(wanted))
    given = {"pairs": 100, "prompts": 50, **features}
    (found,) = selector(Situation(Features(**given), Resources(), ("dpo",)))
    assert isinstance(found, Choice)
    return found


X, Y = np.array([[i, i % 3] for i in range(9)], dtype=float), np.arange(9.0)


@pytest.mark.parametrize("unknown", [False, True])
def test_units_of_features_and_scores_change_nothing(unknown: bool) -> None:
    at = np.array([4.5, np.nan if unknown else 1.0])
    mean, deviation = expect(X, Y, at)
    found = expect(1000 * X - 7, 50 * Y + 3, 1000 * at - 7)
    assert (found.mean, found.deviation) == pytest.approx((50 * mean + 3, 50 * deviation), rel=1e-3)


def test_a_run_varies_by_its_noise() -> None:
    """Of equal features half of the runs scored 0 and half 1: the next one is 1/2, give or take 1/2."""
    found = expect(np.ones((40, 1)), np.arange(40.0) % 2, np.ones(1))
    assert found.mean == pytest.approx(0.5, abs=0.02)
    assert found.deviation == pytest.approx(0.5, abs=0.05)
    assert expect(np.arange(10.0)[:, None], np.arange(10.0), np.array([5.0])).deviation < 0.5  # of a line, hardly


@pytest.mark.parametrize("constant", [0.1, 0.5])
def test_what_is_equal_in_all_runs_has_no_deviation_to_measure_by(constant: float) -> None:
    """0.1 six times deviates by 1e-17, by which 0.11 was infinitely far, and equal scores were certain."""
    x, y = np.array([[i, constant] for i in range(6)], dtype=float), np.arange(6.0)
    known, near = (expect(x, y, np.array([2.0, constant + more])) for more in (0.0, 0.01))
    assert (near.mean, near.deviation) == pytest.approx((known.mean, known.deviation), rel=0.01)
    assert expect(x, np.full(6, constant), x[2]).deviation > 0.05


def test_what_is_not_known_is_each_value_once() -> None:
    """Circles 0 in ten runs that scored 0, and 1 in one that scored 1: without them the mean of the two points."""
    x, y = np.array([[0.0]] * 10 + [[1.0]]), np.array([0.0] * 10 + [1.0])
    means = [expect(x, y, np.array([value])).mean for value in (0.0, 1.0)]
    assert expect(x, y, np.array([np.nan])).mean == pytest.approx(sum(means) / 2)


def test_numbers_of_pairs_are_on_a_log_scale(tmp_path: Path) -> None:
    """Scores 1 to 5 at 10 to 100,000 pairs: between the third and the fourth at their geometric mean."""
    rows = [row(n, float(n), pairs=10**n) for n in range(1, 6)]
    found = asked(tmp_path, rows, ("pairs",), pairs=3162)
    assert found.score == pytest.approx(3.5, abs=0.15)
    assert found.reasons[1] == "5 runs on 5 tasks scored 1.00 to 5.00"
    expected = expect(np.log([[10.0**n] for n in range(1, 6)]), np.arange(1.0, 6.0), np.log([3162.0]))
    assert (found.low, found.high) == pytest.approx(
        [3.5 + sign * 1.96 * expected.deviation for sign in (-1, 1)], abs=0.15
    )
    assert asked(tmp_path, [*rows, row(0, 0.0, pairs=0)], ("pairs",)).score is not None


def test_three_runs_on_two_tasks_are_too_few(tmp_path: Path) -> None:
    found = asked(tmp_path, [row(n % 2, 1.0, pairs=n) for n in range(3)])
    assert found.reasons == ("the history has 2 tasks of it, fewer than 3",)


def test_a_feature_that_one_run_lacks_is_left_out_and_not_called_unseen(tmp_path: Path) -> None:
    rows = [row(n, float(n), pairs=10 + n, circles=None if n == 2 else 0.1 * n) for n in range(5)]
    found = asked(tmp_path, rows)
    assert found.score is not None
    assert "left out, since not every run of the history has it: circles" in found.reasons
    assert not [why for why in found.reasons if why.startswith("not seen")]


@pytest.mark.parametrize(("runs", "known"), [(5, True), (4, False), (0, False)])
def test_whose_responses_rows_are_is_known_where_all_runs_say_it(tmp_path: Path, runs: int, known: bool) -> None:
    rows = [row(n, float(n), pairs=10 + n, off_policy=0.1 * n if n < runs else None) for n in range(5)]
    found = asked(tmp_path, rows, ("pairs", "off_policy"), off_policy=0.2)
    assert ("its score does not know off_policy" in found.reasons) is not known


def test_the_bundled_history_has_no_ties() -> None:
    situation = Situation(
        Features(1000, 300, circles=0.1, strength=2.0, longer_wins=0.4, ties=0.3), Resources(), ("dpo",)
    )
    (found,) = component("selector", "learned")(situation)
    assert "beyond what the history has: ties" in found.reasons


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "a JSON list of task"),
        ([row(0, float("inf"))], "row 1: score: should be a finite number, got inf"),
        ([row(0, 10**400)], "row 1: score: should be a finite number, got 1000"),
        ([row(0, True)], "row 1: score: should be a finite number, got True"),
        ([row(0, 1.0) | {"task": ["t"]}], r"row 1: task: should be a name, got \['t'\]"),
    ],
)
def test_a_history_that_cannot_be_learned_from_is_refused(tmp_path: Path, rows: list[Row], message: str) -> None:
    with pytest.raises(RunError, match=f"history.json: is no history.*{message}"):
        asked(tmp_path, rows)


def test_a_history_that_is_not_there_is_missing(tmp_path: Path) -> None:
    selector = component("selector", "learned", history=str(tmp_path / "none.json"))
    assert selector.missing() == {"history": f"there is no file {str(tmp_path / 'none.json')!r}"}
    with pytest.raises(RunError, match="none.json: is no history: .*No such file"):
        selector(Situation(Features(1, 1), Resources(), ("dpo",)))
