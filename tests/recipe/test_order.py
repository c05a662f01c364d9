"""A stage that needs what no stage before it makes is found before anything is loaded, with its line."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.run_kinds import Stage
from rlhf_plugins.errors import RecipeError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.recipe.check import check_recipe, load_recipe
from rlhf_plugins.recipe.options import options
from rlhf_plugins.recipe.order import out_of_order

HEAD = "base: sandbox\ndata: sandbox\nstages:\n"
REWARD = "- {stage: reward_model, name: judge}"
MODEL = "reward: {use: model, stage: jugde}"


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["- online"], "4: stages.0.reward: reward model needs a stage before this one that makes a reward model"),
        (["- online", REWARD], "recalibrate, reward_ensemble, reward_model"),
        (["- evaluate_reward"], "4: stages.0: stage evaluate_reward needs a stage before this one"),
        (
            [REWARD, f"- {{stage: online, {MODEL}}}"],
            "5: stages.1.reward.stage: no stage before this one makes a reward model of the name 'jugde' "
            "(did you mean judge? known: judge)",
        ),
        (
            ["- {stage: reward_model, loss: regression, teacher: late}", "- {stage: reward_ensemble, name: late}"],
            "4: stages.0.teacher: stage 'late' comes after this one: put it before",
        ),
        (
            [REWARD, "- {stage: online, reward: {use: weighted, parts: [gold, " + "{use: model, stage: x}]}}"],
            "5: stages.1.reward.parts.1.stage: no stage before",
        ),
        (
            ["- sft", "- {stage: online, reward: {use: implicit, policy: stf}}"],
            "5: stages.1.reward.policy.name: no stage before this one makes a policy of the name 'stf' "
            "(did you mean sft?",
        ),
    ],
)
def test_a_stage_out_of_order_is_found(stages: list[str], message: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(HEAD + "\n".join(stages) + "\n")
    with pytest.raises(RecipeError) as caught:
        check_recipe(file)
    assert message in str(caught.value)
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize(
    "stages", [[REWARD, "- online"], ["- {stage: online, reward: gold}"], [REWARD, "- evaluate_reward"]]
)
def test_a_good_order_is_let_through(stages: list[str], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(HEAD + "\n".join(stages) + "\n")
    check_recipe(tmp_path / "recipe.yaml")


@dataclass(frozen=True)
class Both(Stage):
    """Trains two stages, one after the other."""

    first: Stage = uses("stage")
    second: Stage = uses("stage")
    name: str = "both"


def test_a_stage_within_another_is_before_the_ones_that_follow_it() -> None:
    reward, online = component("stage", "reward_model"), component("stage", "online")

    def faults(first: Any, second: Any) -> list[Any]:
        both = Both(first=first, second=second)
        return [keys for keys, _ in out_of_order([(("stages", 0), both)], {}, lambda part: "x")]

    assert faults(reward, online) == []
    assert faults(online, reward) == [("stages", 0, "first", "reward")]


def test_the_old_name_of_a_stage_is_accepted_with_a_line(caplog: pytest.LogCaptureFixture) -> None:
    from rlhf_plugins.recipe import resolve

    resolve._say_renamed.cache_clear()
    recipe = {"base": "sandbox", "data": "sandbox", "stages": ["reward", {"stage": "online", "reward": "model"}]}
    with caplog.at_level(logging.WARNING):
        stages = check_recipe(recipe)["stages"]
    assert (stages[0]["stage"], stages[0]["name"]) == ("reward_model", "reward")
    assert [record.getMessage() for record in caplog.records] == [
        "stage reward is now called reward_model; write that, a later version refuses the old name"
    ]


def test_a_component_is_constructed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf_plugins.registry.registry import registry

    cls: Any = registry().get("reward_loss", "bradley_terry")
    made: list[Any] = []
    monkeypatch.setattr(cls, "__post_init__", made.append, raising=False)
    monkeypatch.setattr(cls, "__init__", lambda self, **_: made.append(self))
    assert not options(cls)
    load_recipe({"base": "sandbox", "data": "sandbox", "stages": ["reward_model"]})
    assert len(made) == 1


def test_a_misspelt_reference_shows_beside_faults_of_other_stages() -> None:
    stages: list[Any] = [
        {"stage": "sft", "trainer": {"max_step": 1}},
        {"stage": "preference", "from": "stf", "trainer": {"max_steps": "x"}},
        {"stage": "rewad_model", "name": "judge"},
        {"stage": "online", "reward": {"use": "model", "stage": "jugde"}, "reference": "sftt"},
        {"stage": "evaluate", "reward": {"use": "model", "stage": "judge"}},
    ]
    with pytest.raises(RecipeError) as caught:
        check_recipe({"base": "sandbox", "data": "sandbox", "stages": stages})
    assert [fault.path for fault in caught.value.faults] == [
        "stages.0.trainer.max_step",
        "stages.1.from",
        "stages.1.trainer.max_steps",
        "stages.2.stage",
        "stages.3.reference",
        "stages.3.reward.stage",
    ]


def test_a_stage_that_is_none_that_is_known_may_make_anything() -> None:
    stages: list[Any] = [{"stage": "quux"}, {"stage": "preference", "from": "other"}, "evaluate_reward"]
    with pytest.raises(RecipeError) as caught:
        check_recipe({"base": "sandbox", "data": "sandbox", "stages": stages})
    assert [fault.path for fault in caught.value.faults] == ["stages.0"]
