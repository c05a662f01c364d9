"""A step that `save_strategy` saved opens as a stage's own model, `RUN#STAGE@STEP`; what is not whole is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_plugins import Adapter, Base, load_policy, load_reward_model, session
from rlhf_plugins.data.other_run import saved_folder
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe import base_policy
from rlhf_plugins.saved.policy_export import export_policy
from rlhf_plugins.saved.run_reference import made
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

TRAINER = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 0.01, "disable_tqdm": True}
ROLLOUT = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 4}
STAGES: dict[str, dict[str, Any]] = {
    "judge": {"use": "reward_model"},
    "dpo": {"use": "preference"},
    "ppo": {"use": "online", "reward": "gold", "trainer": {**ROLLOUT, "generation_kwargs": {"eos_token_id": [7]}}},
}
PROMPTS, RESPONSES = ["how is the ", "who "], ["ant bee cat", "gas"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steps")
    base = replace(tiny_base(folder / "base"), adapter=Adapter(r=4))
    run = session(base, tiny_run(base, folder / "rows", tiny_pairs(16)).data, folder / "run")
    for name, stage in STAGES.items():
        run.train({**stage, "trainer": {**TRAINER, **stage.get("trainer", {})}}, name=name)
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def numbers(words: str) -> torch.Tensor:
    """Of one pair of responses, by the model."""
    if "judge" in words:
        model = load_reward_model(words)
        return model.predict(model.encode(PROMPTS, RESPONSES)).reward
    policy = load_policy(words)
    return policy.log_probs(policy.encode(PROMPTS, RESPONSES))


@pytest.mark.parametrize("name", STAGES)
def test_the_last_step_is_the_stages_model(trained: Path, name: str) -> None:
    whole, last, before = (numbers(f"{trained}#{name}{at}") for at in ("", "@4", "@2"))
    assert torch.equal(last, whole)
    assert not torch.equal(before, whole)
    assert torch.equal(numbers(str(trained / name / "checkpoint-2")), before)


def test_what_is_noted_beside_a_stages_model_is_beside_its_steps(trained: Path) -> None:
    for name, notes in (
        ("judge", {"prompts.json", "plugins.json"}),
        ("dpo", {"prompts.json", "policy.json"}),
        ("ppo", {"prompts.json", "policy.json", "generation_config.json"}),
    ):
        for note in notes:
            own, last = ((trained / name / folder / note).read_text() for folder in ("model", "checkpoint-4"))
            assert own == last, (name, note)
    assert (
        load_policy(f"{trained}#ppo@2").ends == load_policy(f"{trained}#ppo").ends != load_policy(f"{trained}#dpo").ends
    )


def test_a_step_is_where_a_training_starts_and_has_a_card_without_scores(trained: Path, tmp_path: Path) -> None:
    start = base_policy.weights(Base(f"{trained}#dpo@2", adapter=Adapter()))
    assert start.folder == trained / "dpo" / "checkpoint-2"
    assert saved_folder(f"{trained}#judge@2", "rewards") == trained / "judge" / "checkpoint-2"
    export_policy(made(f"{trained}#dpo@2"), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# run: dpo, step 2\n" in card


@pytest.mark.parametrize(
    ("words", "part", "said"),
    [
        ("#dpo@3", "policies", r"#dpo@3: step 3 of that stage was not saved as a model \(known: 2, 4\)"),
        ("#dpo@2", "rewards", "#dpo@2: is a policy, and a reward model is needed"),
        ("#judge@4", "policies", "#judge@4: is a reward model, and a policy is needed"),
        ("#dop@2", "policies", r"'dop@2' .*known: .*dpo"),
        ("#torn@2", "policies", "#torn@2: checkpoint-2 is not whole: the run ended while it was saved"),
        ("#none@2", "policies", "step 2 of that stage was not saved as a model and no other: `trainer: {save_strategy"),
        ("/torn/checkpoint-2", "policies", "checkpoint-2 is not whole"),
        (
            "/dpo/checkpoints/000/00000002",
            "policies",
            "is what `rlhf run --resume` goes on from, and no model; `trainer",
        ),
    ],
)
def test_what_is_no_step_is_refused_wherever_it_is_named(run: Path, words: str, part: Any, said: str) -> None:
    shutil.copytree(run / "dpo" / "checkpoint-2", run / "torn" / "checkpoint-2")
    (run / "torn" / "checkpoint-2" / "trainer_state.json").unlink()
    (run / "none").mkdir()
    (run / "dpo" / "checkpoints" / "000" / "00000002").mkdir(parents=True)
    opens = load_policy if part == "policies" else load_reward_model
    ways: list[Callable[[], Any]] = [
        lambda: made(f"{run}{words}", part),
        lambda: saved_folder(f"{run}{words}", part),
        lambda: opens(f"{run}{words}"),
    ]
    for way in ways:
        with pytest.raises(RunError, match=said):
            way()
    if "#" not in words:
        assert said in base_policy.no_model(f"{run}{words}")
