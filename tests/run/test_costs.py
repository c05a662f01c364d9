"""What a run says of its costs, and stages that end at their budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import Base, Data, RecipeError, load_policy, load_reward_model, run_recipe, session
from rlhf_plugins.contract.run import StageResult
from rlhf_plugins.engine.cost import counting
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.sandbox import POLICY

DATA = {"format": "sandbox", "prompts": 16, "pairs": 16, "test_prompts": 8}
TRAINER = {"max_steps": 4, "per_device_train_batch_size": 2, "disable_tqdm": True}


def results(folder: Path, *stages: dict[str, Any]) -> list[StageResult]:
    recipe = {"base": "sandbox", "data": DATA, "stages": list(stages), "output_dir": str(folder)}
    run_recipe(recipe, say=lambda _: None)
    return RunFolder(folder).finished()


def stage(name: str, **options: Any) -> dict[str, Any]:
    return {"stage": name, "trainer": TRAINER, **options}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    results(folder, stage("reward", budget={"flops": 1}), stage("preference"), stage("sft", budget={"seconds": "1e-9"}))
    return folder


def test_a_result_says_what_its_stage_cost(run: Path) -> None:
    reward, preference, _ = RunFolder(run).finished()
    assert preference.cost.flops > reward.cost.flops > 1e6
    assert preference.cost.trained_tokens > 100
    assert preference.cost.seconds > 0
    assert preference.cost.peak_bytes


@pytest.mark.parametrize(("place", "limit"), [(0, "flops"), (2, "seconds")])
def test_a_stage_ends_at_its_budget_and_says_so(run: Path, place: int, limit: str) -> None:
    result = RunFolder(run).finished()[place]
    assert result.metrics["budget"] == {"limit": limit, "step": 1, "of": 4}
    assert "ended the training at step 1 of 4" in result.report.notes[0]


def test_what_a_run_saved_opens_from_its_folder_alone(run: Path) -> None:
    moved = run.rename(run.with_name("moved"))
    try:
        policy = load_policy(moved / "02-preference" / "model")
        samples = policy.sample(["how is the tea?"], n=2, max_new_tokens=4)
        assert load_reward_model(moved / "01-reward" / "model").predict(samples).reward.shape == (2,)
    finally:
        moved.rename(run)


def test_a_budget_without_a_known_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"budget\.flop: .*did you mean flops\?"):
        results(tmp_path / "run", stage("preference", budget={"flop": 1}))


@pytest.mark.slow
def test_rollouts_and_rewards_are_counted(tmp_path: Path) -> None:
    options = {"num_generations": 2, "max_completion_length": 4, "max_steps": 1, "per_device_train_batch_size": 4}
    (online,) = results(tmp_path / "run", stage("online", reward="gold", trainer={**options, "disable_tqdm": True}))
    assert online.cost.reward_calls == 4
    assert 4 <= online.cost.generated_tokens <= 16
    assert online.cost.flops > 1e6


@pytest.mark.slow
def test_a_policy_that_an_earlier_stage_trained_gives_a_reward_online(tmp_path: Path) -> None:
    options = {"num_generations": 2, "max_completion_length": 4, "max_steps": 1, "per_device_train_batch_size": 4}
    reward = {"use": "implicit", "policy": "preference", "by_token": True}
    online = stage("online", reward=reward, trainer={**options, "disable_tqdm": True})
    _, found = results(tmp_path / "run", stage("preference"), online)
    assert "preference.policies.preference" in found.opened
    assert found.cost.reward_calls == 4


def test_a_function_that_a_script_opens_is_a_reward_model(tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text("def length(completions):\n    return [float(len(c)) for c in completions]\n")
    run = session(Base(str(POLICY)), Data(()), tmp_path / "session")
    reward = run.open("reward", {"use": "python", "path": f"{tmp_path / 'r.py'}:length"})
    with counting() as counter:
        samples = run.policy().sample(["how is the tea?"], n=2, max_new_tokens=4)
        assert reward.predict(samples).reward.tolist() == [len(text) for text in samples.responses]
    assert counter.reward_calls == 2
