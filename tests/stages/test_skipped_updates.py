"""An online stage that had nothing to learn from in half of its updates or more says so, in its notes and the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from handed import folder_of, saved_policy

from rlhf_plugins.contract.run import Base, StageResult
from rlhf_plugins.engine.weights.loading import load_causal
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run
from rlhf_plugins.trainers.ppo.oversight import nothing_learned

TRAINER = {
    **{"max_steps": 8, "per_device_train_batch_size": 8, "num_generations": 4, "num_iterations": 2},
    **{"max_completion_length": 6, "learning_rate": 1e-2, "logging_steps": 1, "disable_tqdm": True},
}
SCORE = """\
calls = []
def score(prompts, completions, **columns):
    calls.append(None)
    return [float(place) if len(calls) > {equal} else 0.0 for place in range(len(completions))]
"""
REASON = "updates were skipped, since all rewards of their rollouts were equal, or none was given"
TRY = "Look at the reward, or sample at a higher temperature."


def trained(folder: Path, equal: int, **words: Any) -> StageResult:
    """Four rollouts of two updates each, the first so many of which have equal rewards."""
    (folder / "r.py").write_text(SCORE.format(equal=equal))
    reward = {"use": "python", "path": f"{folder}/r.py:score"}
    parts = {"reward": reward, "advantage": "grpo", "shaping": [], "trainer": TRAINER}
    stage = component("stage", {"use": "online", **parts, **words})
    made: StageResult = stage.run(tiny_run(tiny_base(folder / "base"), folder / "run", tiny_pairs(16)))
    return made


def test_a_policy_that_learned_nothing_is_said_to_be_its_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = trained(tmp_path, equal=4)
    note = f"8 of 8 {REASON}: the policy is its start. {TRY}"
    assert list(found.report.notes) == [note]
    assert note in [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    ids, base = torch.tensor([[15, 16, 3, 4]]), Base(str(tmp_path / "base"))
    torch.testing.assert_close(saved_policy(base, folder_of(found.policies))(ids).logits, load_causal(base)(ids).logits)


@pytest.mark.parametrize(
    ("equal", "said"), [(3, [f"6 of 8 {REASON}. {TRY}"]), (2, [f"4 of 8 {REASON}. {TRY}"]), (1, [])]
)
def test_half_of_the_updates_are_counted_and_fewer_are_ordinary(tmp_path: Path, equal: int, said: list[str]) -> None:
    assert list(trained(tmp_path, equal).report.notes) == said


def test_an_update_may_be_of_several_training_steps(tmp_path: Path) -> None:
    steps = {"num_iterations": 1, "steps_per_generation": 4, "gradient_accumulation_steps": 2}
    assert list(trained(tmp_path, 3, trainer={**TRAINER, **steps}).report.notes) == [f"6 of 8 {REASON}. {TRY}"]


def test_updates_that_stop_kl_skips_are_no_lack_of_rewards(tmp_path: Path) -> None:
    found = trained(tmp_path, equal=0, stop_kl=1e-9, trainer={**TRAINER, "num_iterations": 4})
    assert [value for _, value in found.curves["skipped"].points] == 2 * [0.0, 0.0, 1.0, 1.0]
    assert not found.report.notes


@pytest.mark.parametrize(
    ("skips", "of_each", "count"),
    [
        ([], 2, 0),
        ([1, 1, 0, 1], 2, 2),
        ([0, 1, 0, 1], 2, 0),
        ([1, 0, 1, 1, 1], 2, 3),
        ([1, 0, 1], 1, 2),
        ([0, 1, 1], 4, 0),
    ],
)
def test_whole_rollouts_are_counted(skips: list[float], of_each: int, count: int) -> None:
    """The last rollout may be cut by the end of the training."""
    assert nothing_learned(skips, of_each) == count
