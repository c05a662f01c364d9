"""What a selector learns from a history, what it says of what it cannot see, and a bandit that trains to find out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rlhf_bench.bandit import halving, regret, ucb
from rlhf_bench.learned import expect

from rlhf_plugins import Choice, Features, PluginError, Resources, RunError, Situation, component, open_run, run_recipe
from rlhf_plugins.testing import tiny_base


@pytest.fixture
def history(tmp_path: Path) -> str:
    """DPO scores 2 whatever the data; IPO 1 where nothing is in circles, and 3 where a fifth is."""
    rows = [
        {"task": f"t{n}", "algorithm": name, "score": score, "features": {"pairs": 100, "circles": 0.02 * n}}
        for n in range(11)
        for name, score in (("dpo", 2.0 + 0.01 * (n % 2)), ("ipo", 1 + 0.2 * n))
    ]
    (tmp_path / "history.json").write_text(json.dumps(rows))
    return str(tmp_path / "history.json")


def ranked(history: str, **features: Any) -> list[Choice]:
    selector = component("selector", "learned", history=history, wanted=["pairs", "circles"])
    found: list[Choice] = selector(Situation(Features(100, 50, **features), Resources(), ("dpo", "ipo", "ppo")))
    return found


def test_it_ranks_by_what_similar_tasks_scored(history: str) -> None:
    assert [choice.algorithm for choice in ranked(history, circles=0.0)] == ["dpo", "ipo", "ppo"]
    first = ranked(history, circles=0.2)[0]
    assert first.algorithm == "ipo"
    assert first.score == pytest.approx(3.0, abs=0.2)
    assert first.low is not None
    assert first.low < first.score


def test_an_algorithm_without_a_history_is_last_and_has_no_score(history: str) -> None:
    last = ranked(history, circles=0.1)[-1]
    assert (last.algorithm, last.score) == ("ppo", None)
    assert last.reasons == ("the history has 0 tasks of it, fewer than 3",)


def test_what_cannot_be_done_is_last_and_what_the_score_does_not_know_is_named(history: str) -> None:
    selector = component("selector", "learned", history=history, wanted=["pairs", "circles"])
    asked = Resources(live_reward=True, hours=1.0)
    found = selector(Situation(Features(10**6, 50, circles=0.0), asked, ("dpo", "ipo", "ppo")))
    assert [(one.algorithm, one.possible) for one in found] == [("ppo", True), ("dpo", False), ("ipo", False)]
    assert found[1].reasons[-1] == "cannot: it cannot learn from a live reward, only from pairs"
    assert {"its score does not know hours", "beyond what the history has: pairs"} <= set(found[1].reasons)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "2"}, "row 1: score: should be a finite number, got '2'"),
        ({"features": [1]}, "row 1: features: should be a mapping"),
        ({"features": {"pairs": "many"}}, "row 1: features.pairs: should be a finite number, got 'many'"),
    ],
)
def test_a_row_of_a_history_that_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    row = {"task": "t", "algorithm": "dpo", "score": 1.0, "features": {"pairs": 3}, **changes}
    (tmp_path / "history.json").write_text(json.dumps([row]))
    with pytest.raises(RunError, match=f"history.json: is no history: {re.escape(message)}"):
        ranked(str(tmp_path / "history.json"))


def test_a_history_without_the_wanted_features_scores_nothing(tmp_path: Path) -> None:
    rows = [{"task": f"t{n}", "algorithm": "dpo", "score": 1.0, "features": {}} for n in range(3)]
    (tmp_path / "history.json").write_text(json.dumps(rows))
    (first, *_) = ranked(str(tmp_path / "history.json"))
    assert (first.score, first.reasons) == (None, ("no row of the history has all of pairs, circles",))


def test_what_it_cannot_see_widens_the_interval_and_is_named(history: str) -> None:
    seen, unseen = (
        next(choice for choice in ranked(history, **features) if choice.algorithm == "ipo")
        for features in ({"circles": 0.1}, {})
    )
    assert "not seen: circles, so that the interval is wider" in unseen.reasons
    assert unseen.high is not None and unseen.low is not None and seen.high is not None and seen.low is not None  # noqa: PT018
    assert unseen.high - unseen.low > 2 * (seen.high - seen.low)
    assert unseen.score == pytest.approx(2.0, abs=0.1)  # the mean over all values of the history


def test_a_score_says_whose_tasks_it_is_of(history: str) -> None:
    asked = Situation(Features(1000, 300), Resources(), ("dpo",))
    (bundled,) = component("selector", "learned")(asked)
    assert bundled.reasons[0] == "expected is the gold reward on the sandbox's tasks, not on these rows"
    assert ranked(history)[0].reasons[0] == f"expected is the score on the tasks of {history}, not on these rows"


def test_a_feature_that_no_history_has_changes_no_score_and_is_named() -> None:
    selector, asked = component("selector", "learned"), ("dpo", "ipo", "ppo")
    without = Features(1000, 300, circles=0.1, strength=2.0, longer_wins=0.4, ties=0.0)
    seen = replace(without, off_policy=0.5, off_policy_low=0.4, off_policy_high=0.6)
    before, after = (selector(Situation(features, Resources(), asked)) for features in (without, seen))
    numbers = [[(one.algorithm, one.score, one.low, one.high) for one in found] for found in (before, after)]
    assert numbers[0] == numbers[1]
    assert [one.reasons[-1] for one in after] == ["its score does not know off_policy"] * 3
    assert not [why for one in before for why in one.reasons if "off_policy" in why]


def test_a_wanted_feature_that_the_history_lacks_is_left_out_and_named(history: str) -> None:
    selector = component("selector", "learned", history=history, wanted=["pairs", "circles", "off_policy"])
    situation = Situation(Features(100, 50, circles=0.1, off_policy=0.5), Resources(), ("dpo", "ipo"))
    found, usual = selector(situation), ranked(history, circles=0.1)
    assert [(one.score, one.low) for one in found] == [(one.score, one.low) for one in usual[:2]]
    assert "left out, since not every run of the history has it: off_policy" in found[0].reasons


def test_a_point_of_the_history_is_met_and_a_far_one_is_the_mean() -> None:
    x, y = np.arange(10.0)[:, None], np.arange(10.0) % 2
    assert expect(x, np.arange(10.0), np.array([5.0])).mean == pytest.approx(5.0, abs=0.3)
    assert expect(x, y, np.array([1000.0])).mean == pytest.approx(y.mean(), abs=0.05)


def test_a_file_that_is_no_history_and_a_feature_that_is_none(tmp_path: Path) -> None:
    for text in ('[{"a": 1}]', "[" * 9000):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(RunError, match="other.json: is no history"):
            ranked(str(tmp_path / "other.json"))
    with pytest.raises(PluginError, match="unknown feature 'circle' .did you mean circles"):
        component("selector", "learned", wanted=["circle"])


def test_regret_is_how_far_trainings_were_below_the_best() -> None:
    assert regret([2.0, 0.0, 0.5]) == "regret 2.500 over 3 trainings, sqrt(T log T) = 1.82"
    halved = {"b": [3.0, 2.0], "c": [2.0, 1.0], "a": [1.0]}
    assert component("selector", "bandit", flops=1.0).below(halved) == [0.0, 1.0, 1.0, 2.0, 2.0]  # from the score 3
    assert component("selector", "bandit", flops=1.0, by="ucb").below(halved) == [-0.5, 0.5, 0.5, 1.5, 1.5]  # from 2.5


def test_what_was_spent_on_an_algorithm_is_that_of_all_its_trainings() -> None:
    """By halving the second training takes twice the FLOPs of the first: 10, then 20."""
    halved = component("selector", "bandit", flops=10.0).choice("b", [3.0, 2.0], "")
    assert halved.reasons[0] == "scored 2.000 in round 2, after 20 FLOPs"
    assert halved.cost == {"spent_flops": 30.0}
    assert component("selector", "bandit", flops=10.0, by="ucb").choice("b", [3.0, 2.0], "").cost == {
        "spent_flops": 20.0
    }


def test_halving_trains_the_better_half_again() -> None:
    pulled = []
    worth = {"a": 1.0, "b": 3.0, "c": 2.0}
    found = halving(lambda name, number: pulled.append((name, number)) or worth[name] - number, list(worth))
    assert pulled == [("a", 0), ("b", 0), ("c", 0), ("b", 1), ("c", 1)]
    assert list(found.items()) == [("b", [3.0, 2.0]), ("c", [2.0, 1.0]), ("a", [1.0])]


def test_ucb_trains_what_may_be_best() -> None:
    """After 5 trainings a has 1 + sqrt(2 log 5 / 4) = 1.90 and b sqrt(2 log 5) = 1.79; after 6 it is 1.85 and 1.89."""
    pulled: list[str] = []
    found = ucb(lambda name, _: pulled.append(name) or float(name == "a"), ["a", "b"], 7)
    assert "".join(pulled) == "abaaaab"
    assert found == {"a": [1.0] * 5, "b": [0.0] * 2}


def test_a_number_of_trainings_is_an_option_of_ucb() -> None:
    with pytest.raises(PluginError, match="it is an option of `by: ucb`"):
        component("selector", "bandit", flops=1.0, pulls=3)
    situation = Situation(Features(1, 1), Resources(), ("dpo", "ipo"), {"dpo": [], "ipo": []})
    once = component("selector", "bandit", flops=1.0, by="ucb", pulls=1)
    with pytest.raises(RunError, match="pulls: 1, fewer than the 2 algorithms"):
        once.choose(None, situation)


@pytest.mark.parametrize(
    ("by", "trained"), [({}, "try0"), pytest.param({"by": "ucb", "pulls": 2}, "pull", marks=pytest.mark.slow)]
)
def test_a_bandit_trains_each_algorithm_and_the_better_half_again(
    by: dict[str, Any], trained: str, tmp_path: Path
) -> None:
    trainer = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    bandit = {"use": "bandit", "flops": 1e6, "prompts": 4, "max_new_tokens": 4, **by}
    stage = {"stage": "auto", "selector": bandit, "algorithms": ["dpo", "ipo"], "trainer": trainer}
    data = {"format": "sandbox", "writer": "sloppy", "prompts": 4, "test_prompts": 4}
    recipe = {"base": tiny_base(tmp_path / "base").path, "adapter": {"r": 2}, "data": data, "stages": [stage]}
    record = open_run(run_recipe({**recipe, "output_dir": str(tmp_path / "run")}, say=str).folder)
    (result,) = record.finished
    assert {"dpo-dpo", "ipo-ipo"} <= {name.partition("-")[2] for name in record.stages() if trained in name}
    assert "sqrt(T log T) = 1.18" in result.sections[0].rows[0]["reasons"]  # T = 2
    assert result.metrics["algorithm"] in ("dpo", "ipo")


def test_a_bandit_needs_to_be_told_what_to_train() -> None:
    selector = component("selector", "bandit", flops=1.0)
    with pytest.raises(RunError, match="use it in the stage `auto`"):
        selector.choose(None, Situation(Features(1, 1), Resources(), ("dpo",)))


def test_a_feature_of_0_below_all_that_were_seen_is_named(tmp_path: Path) -> None:
    rows = [
        {"task": f"t{n}", "algorithm": "dpo", "score": 1.0 * n, "features": {"pairs": 100, "circles": 0.1 * n + 0.1}}
        for n in range(4)
    ]
    (tmp_path / "history.json").write_text(json.dumps(rows))
    first = ranked(str(tmp_path / "history.json"), circles=0.0)[0]
    assert "beyond what the history has: circles" in first.reasons
