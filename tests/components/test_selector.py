"""The rules of the chapter, each with a situation in which it decides; and the stage that follows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import (
    Choice,
    ComponentError,
    Features,
    RecipeError,
    Resources,
    RunError,
    Selector,
    Situation,
    check_recipe,
    component,
    open_run,
    run_recipe,
)
from rlhf_plugins.recipe.candidates import ALGORITHMS, within
from rlhf_plugins.testing import tiny_base

FEW, MANY = Features(500, 300), Features(50_000, 30_000)
NOISY, CLEAN = Features(500, 300, noise=0.3, agreement=0.58), Features(50_000, 30_000, noise=0.02, agreement=0.96)
SITUATIONS: dict[str, tuple[Features, Resources, str]] = {
    "few pairs": (FEW, Resources(), "dpo"),
    "noise": (NOISY, Resources(), "ipo"),
    "circles": (Features(500, 300, circles=0.2), Resources(), "ipo"),
    "off-policy responses": (Features(50_000, 300, off_policy=0.6, off_policy_low=0.3), Resources(), "ppo"),
    "perhaps off-policy": (Features(50_000, 300, off_policy=0.6, off_policy_low=0.2), Resources(), "dpo"),
    "pairs judged both ways": (Features(500, 300, contradictions=0.2), Resources(), "ipo"),
    "live rewards": (FEW, Resources(live_reward=True), "ppo"),
    "compute, and to adapt": (MANY, Resources(hours=8, online=True), "ppo"),
    "clean, and little compute": (CLEAN, Resources(hours=1), "dpo"),
    "little memory": (CLEAN, Resources(vram=8), "dpo"),
    "several stages": (MANY, Resources(staged=True), "dpo_then_ppo"),
    "stability": (MANY, Resources(priority="stability"), "ipo"),
    "quality": (MANY, Resources(priority="quality"), "ppo"),
    "speed": (MANY, Resources(priority="speed"), "dpo"),
    "trained often": (MANY, Resources(update_every=1), "dpo"),
    "no sampling": (MANY, Resources(online=False, priority="quality"), "dpo"),
}


def ranked(features: Features, resources: Resources) -> list[Choice]:
    found: list[Choice] = component("selector", "rules")(Situation(features, resources, tuple(ALGORITHMS)))
    return found


@pytest.mark.parametrize("case", SITUATIONS)
def test_a_rule_decides(case: str) -> None:
    features, resources, first = SITUATIONS[case]
    assert ranked(features, resources)[0].algorithm == first


def test_stability_ranks_ipo_dpo_ppo_and_quality_ppo_first() -> None:
    stable, good = (ranked(MANY, Resources(priority=name)) for name in ("stability", "quality"))
    assert [choice.algorithm for choice in stable] == ["ipo", "dpo", "ppo", "dpo_then_ppo"]
    assert [choice.algorithm for choice in good] == ["ppo", "dpo_then_ppo", "dpo", "ipo"]


def test_what_cannot_be_done_is_last_and_says_why() -> None:
    *_, last = ranked(FEW, Resources(live_reward=True))
    assert not last.possible
    assert last.reasons[1] == "cannot: it cannot learn from a live reward, only from pairs"


@pytest.mark.parametrize(
    ("peak", "reason", "possible"),
    [
        (3.0, "+0 its forecast peak of memory, 3.0 GiB, fits the GPU's 8 GB", True),
        (7.5, "-1 its forecast peak of memory, 7.5 GiB, is so near the GPU's 8 GB that it may not fit", True),
        (14.25, "cannot: its forecast peak of memory, 14.2 GiB, is above the GPU's 8 GB", False),
    ],
)
def test_a_forecast_decides_in_place_of_what_online_training_usually_takes(
    peak: float, reason: str, possible: bool
) -> None:
    costs = {"ppo": {"peak_bytes": peak * 2**30}}
    found = component("selector", "rules")(Situation(MANY, Resources(vram=8), tuple(ALGORITHMS), costs=costs))
    by_name = {choice.algorithm: choice for choice in found}
    assert (reason in by_name["ppo"].reasons, by_name["ppo"].possible) == (True, possible)
    usual = "-1 8 GB is little for a value and sampling"
    assert [usual in by_name[name].reasons for name in ("ppo", "dpo_then_ppo")] == [False, True]


def test_off_policy_responses_speak_for_ppo_and_against_learning_from_them_alone() -> None:
    features = Features(50_000, 300, off_policy=0.6, off_policy_low=0.3)
    found = {choice.algorithm: choice.reasons[0] for choice in ranked(features, Resources())}
    said = "its own samples are 0.60 nats a token likelier to the policy than the rows"
    assert found["ppo"] == f"+1 off-policy responses, and it learns from its own: {said}"
    assert found["ipo"] == f"-1 off-policy responses, and it learns from them alone: {said}"
    assert found["dpo_then_ppo"] == "no rule speaks for or against it"


def test_what_it_could_not_see_is_among_the_reasons() -> None:
    unseen = [reason for reason in ranked(FEW, Resources())[0].reasons if reason.startswith("not seen")]
    assert len(unseen) == 3
    own = Features(500, 300, off_policy=0.0)
    assert not [reason for reason in ranked(own, Resources())[0].reasons if "policy" in reason]
    assert not [reason for reason in ranked(NOISY, Resources())[0].reasons if "annotators agree" in reason]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([Choice("dpo")], "ranked dpo, not each of dpo, ipo once"),
        ([Choice("dpo", score=1.0, low=2.0), Choice("ipo")], "expects 1.0 of dpo, from 2.0 to None"),
        (["dpo", "ipo"], "gave a str, not a list of Choice"),
    ],
)
def test_an_answer_that_ranks_nothing_is_refused(choices: Any, message: str) -> None:
    class Answers(Selector):
        def __call__(self, situation: Situation) -> Any:
            return choices

    with pytest.raises(ComponentError, match=message):
        Answers()(Situation(FEW, Resources(), ("dpo", "ipo")))


def recipe(folder: Path, **stage: Any) -> dict[str, Any]:
    trainer = {"max_steps": 1, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    return {
        "base": tiny_base(folder / "base").path,
        "adapter": {"r": 2},
        "data": {"format": "sandbox", "writer": "sloppy", "prompts": 4, "test_prompts": 4},
        "output_dir": str(folder / "run"),
        "stages": [{"stage": "auto", "trainer": trainer, **stage}],
    }


def test_the_stages_of_an_algorithm_are_checked_before_anything_runs(tmp_path: Path) -> None:
    for words, message in (
        ({"algorithms": ["dop"]}, "algorithms: unknown algorithm 'dop' .did you mean dpo"),
        ({"algorithms": ["mine"], "own": {"mine": []}}, "algorithm 'mine' has no stages"),
        ({"algorithms": ["mine"], "own": {"mine": [{"stage": "preferenc"}]}}, "own.mine: mine: stages.0"),
    ):
        with pytest.raises(RecipeError, match=message):
            check_recipe(recipe(tmp_path, **words))


def test_the_stage_trains_what_was_chosen_and_goes_on_with_the_choice(tmp_path: Path) -> None:
    online = {"num_generations": 2, "max_completion_length": 4, "max_steps": 1, "per_device_train_batch_size": 4}
    dpo, reward, ppo = ALGORITHMS["dpo_then_ppo"]
    dpo = {name: value for name, value in dpo.items() if name != "name"}  # it is called as its stage is
    own = {"dpo_then_ppo": [dpo, reward, {**ppo, "trainer": online}]}
    names = ["dpo", "dpo_then_ppo"]
    folder = run_recipe(recipe(tmp_path, resources={"staged": True}, algorithms=names, own=own), say=str).folder
    (result,) = open_run(folder).finished
    assert result.metrics["algorithm"] == "dpo_then_ppo"
    assert result.policies["auto"]["path"].endswith("ppo/model")
    assert "reward" in result.rewards["auto"]["path"]
    first, second = result.sections[0].rows
    assert first["algorithm"] == "dpo_then_ppo"
    # 24 pairs a batch of 4 for a step, twice; a rollout of 4
    assert first["cost"].startswith("about 3 steps, 24 sequences, ")
    assert second["cost"].startswith("about 1 steps, 8 sequences, ")


def test_the_hours_of_the_resources_end_each_training_that_has_no_budget_of_its_own(tmp_path: Path) -> None:
    words = recipe(tmp_path, algorithms=["dpo"], resources={"hours": 1e-9})
    words["stages"][0]["trainer"]["max_steps"] = 3
    record = open_run(run_recipe(words, say=str).folder)
    assert max(row["step"] for row in record.metrics("auto/dpo")) == 1


def test_hours_are_divided_equally_among_trainings() -> None:
    stages = [{"stage": "reward_model"}, {"stage": "online", "budget": {"flops": 1e9}}, {"stage": "evaluate"}]
    first, second, third = within(stages, 2)
    assert first["budget"] == {"seconds": 3600.0}  # a half of 2 h
    assert second["budget"] == {"flops": 1e9}
    assert third == {"stage": "evaluate"}
    assert within(stages, None) == stages


def test_a_policy_that_cannot_be_asked_leaves_a_feature_unseen_and_the_stage_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> dict[str, Any]:
        raise RunError("12 of 12 log-probability gaps are not finite")

    monkeypatch.setattr("rlhf_plugins.evaluate.off_policy.off_policy", fails)
    (result,) = open_run(run_recipe(recipe(tmp_path, algorithms=["dpo"]), say=str).folder).finished
    said = "not seen: off_policy: 12 of 12 log-probability gaps are not finite"
    assert said in result.sections[0].rows[0]["reasons"]


def test_the_stage_does_not_choose_what_too_few_prompts_would_stop(tmp_path: Path) -> None:
    words = recipe(tmp_path, algorithms=["dpo", "ppo"], resources={"priority": "quality"})
    trainer = {"max_steps": 1, "per_device_train_batch_size": 64}
    words["stages"][0]["trainer"] = trainer
    (result,) = open_run(run_recipe(words, say=str).folder).finished
    assert result.metrics["algorithm"] == "dpo"
    assert result.sections[0].rows[1]["reasons"].startswith("cannot: ppo: 4 prompts to train on, and a rollout takes ")


def test_the_stage_asks_the_policy_that_it_trains_whether_rows_are_its_own(tmp_path: Path) -> None:
    words = recipe(tmp_path, algorithms=["dpo", "ipo"])
    data = {**words["data"], "prompts": 12}
    folder = run_recipe({**words, "data": data}, say=str).folder
    reasons = open_run(folder).finished[0].sections[0].rows[0]["reasons"]
    assert "not seen: how often annotators agree" in reasons
    assert "not seen: whether responses are the policy's own" not in reasons
