"""What would stop a recipe after an hour is one line of `rlhf check`, before anything loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.errors import RecipeError
from rlhf_plugins.recipe.check import check_recipe
from rlhf_plugins.reward_models.ensemble import describe

ASKED = {"format": "prompts", "source": "owner/rows"}
HUMAN = {"format": "preference", "source": "owner/rows"}


def faults(*stages: Any, data: Any = "sandbox") -> list[str]:
    """What is said of a recipe with these stages."""
    try:
        check_recipe({"base": "sandbox", "data": data, "stages": list(stages)})
    except RecipeError as error:
        return [str(fault) for fault in error.faults]
    return []


def fault(*stages: Any, data: Any = "sandbox") -> str:
    """The only one."""
    found = faults(*stages, data=data)
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(
    ("stages", "data", "message"),
    [
        ([{"stage": "online", "reward": "gold"}], HUMAN, "stages.0.reward: reward gold needs data whose true reward"),
        (
            ["evaluate"],
            ASKED,
            "stages.0: stage evaluate needs `reward:` or `judge:`, a stage before it that makes one, or data with",
        ),
        (["sft"], {"format": "preference", "source": "pair.jsonl"}, "data.source: there is no file 'pair.jsonl'"),
        ([{"stage": "online", "reward": {"use": "python", "path": "no.py:f"}}], HUMAN, "there is no file 'no.py'"),
        ([{"stage": "online", "reward": {"use": "saved", "path": "no"}}], HUMAN, "there is no folder 'no'"),
        (["sft"], ASKED, "stages.0: stage sft trains on responses, and data of format prompts has prompts alone"),
        (["sft", {"stage": "preference", "optimizer": "start"}], HUMAN, "1.optimizer: stage 'sft' keeps none"),
        ([{"stage": "sft", "name": "base"}], HUMAN, "stages.0: the name 'base' is a word of `from` and `reference`"),
        (["sft", {"stage": "preference", "from": "stf"}], HUMAN, "1.from: no stage before this one makes a policy"),
        (["sft", {"stage": "preference", "reference": "sff"}], HUMAN, "(did you mean sft? known: sft)"),
        ([{"stage": "preference", "from": "sft"}, "sft"], HUMAN, "stages.0.from: stage 'sft' comes after this one"),
    ],
)
def test_what_would_stop_a_recipe_later_is_said_at_once(stages: list[Any], data: Any, message: str) -> None:
    found = fault(*stages, data=data)
    assert message in found


VOTES: list[Any] = [{"stage": "reward_ensemble", "aggregation": "vote"}]
GROUP = {"max_steps": 1, "num_generations": 2, "per_device_train_batch_size": 2}
BEST = {"eval_strategy": "steps", "load_best_model_at_end": True, "metric_for_best_model": "eval_reward"}


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"stage": "online", "trainer": {**GROUP, "num_generations": 1}}, "stage online: trainer.num_generations: {}"),
        (
            {"stage": "online", "trainer": {**GROUP, **BEST}},
            "stage online: trainer.metric_for_best_model: {} a held-out",
        ),
        (
            {"stage": "online", "trainer": GROUP, "reward": {"use": "prefixes"}},
            "reward: reward prefixes: {} prefixes of",
        ),
        (
            {"stage": "evaluate", "tasks": [{"use": "violations", "reward": "model"}]},
            "tasks.0: task violations: {} each",
        ),
        ({"stage": "online", "trainer": GROUP}, None),
        ({"stage": "evaluate", "tasks": ["reward_wins"]}, None),
    ],
)
def test_a_reward_that_compares_responses_is_refused_where_one_is_scored_alone(stage: Any, message: str | None) -> None:
    why = "aggregation vote compares the responses to a prompt, and"
    found = faults(*VOTES, stage)
    assert [message.format(why) in one for one in found] == [True] if message else not found
    assert not faults({**VOTES[0], "aggregation": "mean"}, stage)
    assert not faults(*VOTES, "reward_model", stage)  # the latest, which scores alone


@pytest.mark.parametrize("use", ["vote", "mean"])
def test_a_saved_reward_that_compares_responses_is_refused_by_what_its_folder_says(
    use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("saved").mkdir()
    describe(Path("saved"), ["0", "1"], {"use": use}, accuracy=[1, 1], early_exit=False)
    alone, saved = {**GROUP, "num_generations": 1}, {"use": "saved", "path": "saved"}
    refused = [
        faults({"stage": "online", "trainer": alone, "reward": saved}),
        faults({"stage": "online", "trainer": alone, "reward": {"use": "weighted", "parts": ["length", saved]}}),
        faults({"stage": "named_reward", "reward": saved}, {"stage": "online", "trainer": alone}),
    ]
    said = "stage online: trainer.num_generations: aggregation vote compares the responses to a prompt, and"
    assert [[said in one for one in found] for found in refused] == [[True] if use == "vote" else []] * 3
    assert not faults({"stage": "online", "trainer": GROUP, "reward": saved})


@pytest.mark.parametrize(
    ("code", "path", "message"),
    [
        ("def score(prompts): ...", "rewards.py:scores", "has no function 'scores' (did you mean score? known: score)"),
        ("def score(prompts): ...", "reward.py:score", "there is no file 'reward.py' (did you mean rewards.py?)"),
        ("def score(prompts)", "rewards.py:score", "rewards.py cannot be imported: SyntaxError"),
        ("raise SystemExit\nif 1:\n    score = len", "rewards.py:score", ""),
        ("from re import match as score", "rewards.py:score", ""),
        ("from os.path import *", "rewards.py:exists", ""),
    ],
)
def test_a_function_is_looked_up_and_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rewards.py").write_text(code)
    found = faults({"stage": "online", "reward": {"use": "python", "path": path}})
    assert len(found) == bool(message)
    assert message in "".join(found)


@pytest.mark.parametrize(
    "stages", [["reward_model", "evaluate"], ["sft", "evaluate"], ["sft", {"stage": "preference", "from": "previous"}]]
)
def test_what_goes_together_is_let_through(stages: list[Any]) -> None:
    assert not faults(*stages, data=HUMAN)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"per_device_train_batch_size": 0}, "should be greater than or equal to 1, got 0"),
        ({"learning_rate": -1}, "should be greater than or equal to 0, got -1.0"),
        ({"max_length": -5}, "should be greater than or equal to 1, got -5"),
        ({"lr_scheduler_kwargs": {"a": 1}}, "unexpected keyword argument 'a'"),
        ({"adam_beta1": 5}, "should be less than 1, got 5.0"),
        ({"max_steps": -7}, "should be -1 or should be greater than or equal to 1, got -7"),
        ({"report_to": "clearml"}, "clearml is not installed: `pip install clearml`, or write none"),
        ({"report_to": ["wandbb"]}, "unknown tracker 'wandbb' (did you mean wandb?"),
        ({"eval_steps": 5}, "changes nothing without `eval_strategy`, which evaluates"),
        ({"optim_target_modules": ["q_proj"]}, "changes nothing without `optim: galore_adamw` or `apollo_adamw`"),
        ({"parallelism_config": {}}, "is an object of accelerate, which a recipe cannot hold; leave it out"),
        ({"torch_compile": True}, "is read in transformers' own forward pass, and this stage always has the engine's"),
        ({"include_for_metrics": ["inputs"]}, "is read in transformers' own forward pass"),
        ({"bf16_full_eval": True}, "is read by an evaluation outside a training, and stages evaluate within it"),
        ({"debug": ["underflow_overflow"]}, "is read in transformers' own forward pass"),
        ({"save_steps": 5}, "changes nothing without `save_strategy`, which saves"),
        ({"push_to_hub": True}, "uploads no finished model: `rlhf export RUN#STAGE OUT` writes one"),
    ],
)
def test_no_training_can_use_such_an_option(option: dict[str, Any], message: str) -> None:
    found = fault({"stage": "preference", "trainer": option})
    assert f"stages.0.trainer.{next(iter(option))}: " in found
    assert message in found


def test_a_reward_model_is_not_debugged_by_hooks_of_transformers() -> None:
    found = fault({"stage": "reward_model", "trainer": {"debug": ["underflow_overflow"]}})
    assert "debug: is read in transformers' own forward pass" in found


def test_online_no_process_sends_its_batches_to_others() -> None:
    option = {"accelerator_config": {"dispatch_batches": True}}
    assert "dispatch_batches sends tensors alone" in fault({"stage": "online", "reward": "gold", "trainer": option})


EVERY = {"eval_strategy": "steps", "eval_steps": 2}


@pytest.mark.parametrize(
    ("stage", "trainer", "message"),
    [
        (
            "preference",
            {**EVERY, "metric_for_best_model": "rewards/accuracy"},
            "did you mean rewards/accuracies? known:",
        ),
        ("sft", {**EVERY, "metric_for_best_model": "eval_los"}, "no held-out number 'los' (did you mean loss? known:"),
        ("reward_model", {**EVERY, "metric_for_best_model": "acuracy"}, "did you mean accuracy?"),
        ("online", {**EVERY, "load_best_model_at_end": True}, "no held-out number 'loss' (known: kl, length, reward)"),
        ("sft", {"metric_for_best_model": "loss"}, "changes nothing without `eval_strategy`"),
    ],
)
def test_a_number_that_chooses_the_best_weights_is_measured(stage: str, trainer: dict[str, Any], message: str) -> None:
    before = ["reward_model"] if stage == "online" else []
    found = fault(*before, {"stage": stage, "trainer": trainer}, data=HUMAN)
    assert f"stages.{len(before)}.trainer.metric_for_best_model: " in found
    assert message in found


def test_numbers_that_are_measured_may_choose() -> None:
    best = {**EVERY, "load_best_model_at_end": True, "save_total_limit": 3}
    gold = {"stage": "online", "reward": "gold", "trainer": {**best, "metric_for_best_model": "eval_gold_reward"}}
    assert not faults({"stage": "sft", "trainer": best}, gold)
    by_parts = {"use": "weighted", "parts": ["gold", "length"]}
    choosing = {**gold, "reward": by_parts, "trainer": {**best, "metric_for_best_model": "eval_reward/length"}}
    assert not faults(choosing)
    misspelt = {**choosing, "trainer": {**best, "metric_for_best_model": "reward/lenght"}}
    assert "no held-out number 'reward/lenght' (did you mean reward/length?" in fault(misspelt)


def task(**options: Any) -> dict[str, Any]:
    """A task on rows that are not here."""
    return {"use": "choices", "data": ASKED, **options}


@pytest.mark.parametrize(
    ("tasks", "trainer", "message"),
    [
        ([task()], {}, "tasks: needs `trainer: {eval_strategy: steps}`"),
        ([task(), task()], EVERY, "tasks: two are called 'choices'"),
        ([task(name="loss")], EVERY, "tasks: 'loss' is a number of the stage's own"),
        ([task()], {**EVERY, "metric_for_best_model": "choises"}, "did you mean choices?"),
        (
            [{"use": "violations", "reward": "gold"}],
            {**EVERY, "metric_for_best_model": "violations"},
            "of 'violations' less is better: write `greater_is_better: false`",
        ),
    ],
)
def test_tasks_of_a_training_are_checked(tasks: list[Any], trainer: dict[str, Any], message: str) -> None:
    found = fault({"stage": "sft", "tasks": tasks, "trainer": trainer})
    assert message in found


def test_minus_one_is_no_limit_of_steps() -> None:
    assert not faults({"stage": "preference", "trainer": {"max_steps": -1}})


def test_a_misspelt_run_is_no_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (model := tmp_path / "runs/good").mkdir(parents=True)
    (model / "config.json").touch()
    with pytest.raises(RecipeError) as caught:
        check_recipe({"base": "runs/god", "data": "sandbox", "stages": ["sft"]})
    message = "base: there is a folder 'runs', and no model or run 'god' in it (did you mean runs/good?"
    assert message in str(caught.value)
    assert check_recipe({"base": "owner/god", "data": "sandbox", "stages": ["sft"]})["base"] == "owner/god"


@pytest.mark.parametrize("typed", [True, False])
def test_a_misspelt_folder_is_no_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: bool) -> None:
    (model := tmp_path / "tiny").mkdir()
    (model / "config.json").touch()
    (recipe := tmp_path / "own.yaml").write_text("{base: tinny, data: sandbox, stages: [sft]}")
    if typed:
        monkeypatch.chdir(tmp_path)
    with pytest.raises(
        RecipeError, match=r"base: there is no folder 'tinny' \(did you mean tiny\?\); a model on the hub"
    ):
        check_recipe(recipe, ["base=tinny"] if typed else [])
    assert check_recipe(recipe, ["base=gpt2"])["base"] == "gpt2"


def test_the_base_of_a_critic_is_looked_for_too() -> None:
    value = {"network": "own", "base": "./no"}
    found = fault({"stage": "online", "reward": "gold", "value": value})
    assert found == "recipe: stages.0.value.base: no folder './no', and that is not a hub name such as `owner/model`"
