"""Evaluation while a stage trains: held-out numbers at `eval_strategy`, the best checkpoint kept, and an early end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from handed import folder_of
from marks import slow
from safetensors.torch import load_file
from voting import voting

from rlhf_plugins import Adapter, RecipeError, Run, RunError, StageResult, session
from rlhf_plugins.contract.component import Component
from rlhf_plugins.contract.sampling import PLAIN
from rlhf_plugins.engine.sampling import Decoding
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.recipe.check import check_recipe
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run
from rlhf_plugins.trainers.ppo import held_out

EVERY = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 6, "learning_rate": 1e-2, "logging_steps": 1}
QUIET = {"disable_tqdm": True, "per_device_eval_batch_size": 4}
NUMBERS = {
    "sft": {"eval_loss"},
    "preference": {"eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"},
    "reward_model": {"eval_loss", "eval_accuracy", "eval_margin"},
}


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    base = replace(tiny_base(tmp_path / "base"), adapter=getattr(request, "param", Adapter(r=4)))
    return session(base, tiny_run(base, tmp_path / "rows", tiny_pairs(16)).data, tmp_path / "run")


full_too = pytest.mark.parametrize("run", [Adapter(r=4), *slow(None)], ids=["lora", "full"], indirect=True)


def made(use: str, trainer: dict[str, Any], **options: Any) -> Component:
    found: Component = component("stage", {"use": use, "trainer": {**EVERY, **QUIET, **trainer}, **options})
    return found


@pytest.mark.parametrize("use", NUMBERS)
def test_numbers_on_held_out_rows_are_curves(run: Run, use: str) -> None:
    stage: Any = made(use, {})
    curves = run.train(stage, name="a").curves
    assert {name for name in curves if name.startswith("eval_")} == {f"eval_{n}" for n in stage.held_out_numbers(True)}
    for name in NUMBERS[use]:
        assert [step for step, _ in curves[name].points] == [2, 4, 6], name
    assert not [name for name in curves if "runtime" in name or "per_second" in name]
    assert curves["eval_loss"].better == "lower"


def test_held_out_topics_are_those_of_training(tmp_path: Path) -> None:
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run")
    topics = [replace(group, topic="ab"[place % 2]) for place, group in enumerate(run.data.train)]
    run = replace(run, data=replace(run.data, train=tuple(topics), test=tuple(reversed(topics))))
    trainer, _ = made("reward_model", {})._trainer(run, run.data.train, 0)  # type: ignore[attr-defined]
    assert trainer.train_dataset["topic"][:2] == [0, 1]
    assert trainer.eval_dataset["topic"][:2] == [1, 0]


def weights(result: StageResult) -> dict[str, Any]:
    """What the stage saved."""
    return load_file(next(folder_of(result.policies or result.rewards).glob("*model.safetensors")))


@full_too
@pytest.mark.parametrize("use", [*slow("sft"), "preference", "reward_model"])
def test_the_best_weights_are_those_that_are_left(run: Run, use: str) -> None:
    """With a constant learning rate they are those of a run that ends there."""
    steep = {"learning_rate": 0.2, "lr_scheduler_type": "constant", "load_best_model_at_end": True}
    found = run.train(made(use, steep), name="whole")
    losses = dict(found.curves["eval_loss"].points)
    best = min(losses, key=losses.__getitem__)
    short = run.train(made(use, {**steep, "max_steps": best, "load_best_model_at_end": False}), name="short")
    torch.testing.assert_close(weights(found), weights(short))
    assert not list((run.folder / "whole").rglob("optimizer*"))
    assert not [*(run.folder / "whole").glob("README.md"), *(run.folder / "whole").glob("checkpoint-*/README.md")]
    assert found.report.notes == [f"whole kept step {best}, eval_loss {losses[best]:.4g}."]
    assert short.report.notes == []


def test_a_training_ends_once_held_out_rows_show_nothing_better(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    still = {"learning_rate": 0.0, "max_steps": 20}
    found = run.train(made("preference", still, early_stopping_patience=2), name="a")
    assert [step for step, _ in found.curves["eval_loss"].points] == [2, 4, 6]
    said = "a ended at step 6 of 20: no better eval_loss in 2 evaluations."
    assert found.report.notes == [said]
    assert said in capsys.readouterr().err.splitlines()


def test_what_an_evaluation_needs_is_said(run: Run) -> None:
    early = {"stage": "sft", "early_stopping_patience": 1}
    with pytest.raises(RecipeError, match="early_stopping_patience: needs `trainer: {eval_strategy: steps}`"):
        check_recipe({"base": "sandbox", "data": "sandbox", "stages": [early]})
    with pytest.raises(RunError, match="eval_strategy: no rows are held out"):
        run.train(made("sft", {}), name="none", data=replace(run.data, test=()))


ONLINE = {"reward": "gold", "shaping": [], "eval_prompts": 6}
ROLLOUT = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6}


def test_a_policy_is_sampled_on_held_out_prompts_and_training_is_the_same(run: Run) -> None:
    stage: Any = made("online", ROLLOUT, **ONLINE)
    found = run.train(stage, name="a").curves
    assert {name for name in found if name.startswith("eval_")} == {f"eval_{n}" for n in stage.held_out_numbers(True)}
    for name in ("eval_reward", "eval_gold_reward", "eval_kl", "eval_length"):
        assert [step for step, _ in found[name].points] == [2, 4, 6], name
    values = {name: [value for _, value in found[name].points] for name in ("eval_reward", "eval_gold_reward")}
    assert values["eval_reward"] == pytest.approx(values["eval_gold_reward"], rel=1e-6)
    blind = run.train(made("online", {**ROLLOUT, "eval_strategy": "no", "eval_steps": None}, **ONLINE), name="b").curves
    for name in ("reward", "kl", "length", "loss"):
        assert found[name].points == blind[name].points, name


def test_the_first_evaluation_of_a_policy_that_stays_has_no_kl(run: Run) -> None:
    still = {**ROLLOUT, "learning_rate": 0.0, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 2}
    found = run.train(made("online", still, **ONLINE), name="a").curves
    assert [value for _, value in found["eval_kl"].points] == pytest.approx([0, 0], abs=1e-5)
    assert found["eval_reward"].points[0][1] == found["eval_reward"].points[1][1]
    stage: Any = made("online", {**still, "top_k": 3}, **ONLINE)
    cut = run.train(stage, name="b").curves
    assert {name for name in cut if name.startswith("eval_")} == {f"eval_{n}" for n in stage.held_out_numbers(True)}
    assert "eval_kl" not in cut


def test_votes_have_no_held_out_reward_and_are_measured_by_wins_over_the_reference(run: Run, tmp_path: Path) -> None:
    """One response to a prompt has no other: its reward would be one half at each evaluation, and choose at random."""
    reward = {"use": "saved", "path": str(voting(tmp_path / "votes", run.base))}
    wins = {"use": "reward_wins", "reward": reward, "max_new_tokens": 6, "rows": 6}
    steep = {**ROLLOUT, "learning_rate": 0.1, "metric_for_best_model": "reward_wins"}
    options = {**ONLINE, "reward": reward, "tasks": [wins], "advantage": "rloo"}
    found = run.train(made("online", steep, **options), name="a").curves
    assert {name for name in found if name.startswith("eval_")} == {
        f"eval_{name}" for name in ("kl", "length", "gold_reward", "reward_wins")
    }
    assert {value for _, value in found["eval_reward_wins"].points} != {0.5}
    with pytest.raises(RunError, match="stage b: trainer.metric_for_best_model: aggregation vote compares"):
        run.train(made("online", {**steep, "metric_for_best_model": "reward"}, **{**options, "tasks": []}), name="b")


@full_too
def test_the_policy_with_the_best_held_out_reward_is_left(run: Run) -> None:
    best = {"load_best_model_at_end": True, "metric_for_best_model": "reward", "greater_is_better": True}
    steep = {**ROLLOUT, **best, "learning_rate": 0.1, "lr_scheduler_type": "constant"}
    found = run.train(made("online", steep, **ONLINE), name="whole")
    rewards = dict(found.curves["eval_reward"].points)
    step = max(rewards, key=rewards.__getitem__)
    assert found.report.notes == [f"whole kept step {step}, eval_reward {rewards[step]:.4g}."]
    short = {**steep, "max_steps": step, "load_best_model_at_end": False}
    torch.testing.assert_close(weights(found), weights(run.train(made("online", short, **ONLINE), name="short")))


@pytest.mark.parametrize("use", [*slow("preference"), "online"])
def test_tasks_are_measured_while_a_policy_is_trained(run: Run, use: str, tmp_path: Path) -> None:
    """The last share is that of the policy which the stage left."""
    asked = ("how", "is", "the", "what", "who", "why")
    rows = [{"prompt": f"{word} is ", "choices": ["ant", "bee"], "answer": i % 2} for i, word in enumerate(asked)]
    (file := tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"use": "choices", "data": {"format": "prompts", "source": str(file)}}
    best = {"metric_for_best_model": "choices", "learning_rate": 0.1, "lr_scheduler_type": "constant"}
    more: Any = (ROLLOUT, ONLINE) if use == "online" else ({}, {})
    stage = made(use, {**more[0], **best}, tasks=[task], early_stopping_patience=5, **more[1])
    found = run.train(stage, name="a")
    (curve,) = (curve for name, curve in found.curves.items() if name == "eval_choices")
    shares = component("task", task).build(run)(run.policy("a"))
    assert ([step for step, _ in curve.points], curve.better) == ([2, 4, 6], "higher")
    assert curve.points[-1][1] == sum(shares) / len(shares)


def test_held_out_messages_lose_the_fields_that_a_table_adds_and_are_sampled_as_in_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def sample(model: Any, tokenizer: Any, prompts: list[Any], decoding: Any) -> None:
        seen.extend([*prompts, decoding])
        raise RunError("enough")

    monkeypatch.setattr(held_out, "sample", sample)
    row = {"prompt": [{"role": "user", "content": "who", "tool_calls": None}]}
    options = {"max_completion_length": 4, "temperature": 0.5, **PLAIN, "args": SimpleNamespace(seed=0)}
    options |= {"top_k": 5, "min_p": None}  # as TRL has them
    trainer = SimpleNamespace(
        eval_dataset=[row], model=torch.nn.Linear(1, 1), prompt_tokens=SimpleNamespace(tokenizer=None), **options
    )
    with pytest.raises(RunError, match="enough"):
        held_out.HeldOut.evaluate(trainer)
    assert seen == [[{"role": "user", "content": "who"}], Decoding(4, 0.5, 0, top_k=5)]
