"""A run that an earlier release saved opens, and its policy and reward model answer as they did then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import load_policy, load_reward_model, open_run
from rlhf_plugins.run.files import reporting
from rlhf_plugins.run.files.folder import RunFolder

RELEASES = sorted(path for path in (Path(__file__).parent / "releases").iterdir() if path.is_dir())


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The run, moved to another folder."""
    return Path(shutil.copytree(request.param, tmp_path / "moved"))


@pytest.fixture
def answers(run: Path) -> dict[str, Any]:
    """What the models answered when they were saved."""
    found: dict[str, Any] = json.loads((run / "answers.json").read_text())
    return found


def test_its_policy_answers_as_it_did(run: Path, answers: dict[str, Any]) -> None:
    with load_policy(f"{run}#dpo") as policy:
        samples = policy.sample(answers["prompts"], temperature=0.0, max_new_tokens=8, seed=0)
        known = policy.log_probs(policy.encode(answers["prompts"], answers["given"])).sum(1).tolist()
    assert list(samples.responses) == answers["responses"]
    assert known == pytest.approx(answers["log_probs"], abs=1e-4)


def test_its_reward_model_scores_as_it_did(run: Path, answers: dict[str, Any]) -> None:
    model = load_reward_model(f"{run}#reward_model")
    found = model.predict(model.encode(answers["prompts"], answers["given"]))
    assert found.reward.tolist() == pytest.approx(answers["rewards"], abs=1e-4)


def test_its_record_and_its_report_open(run: Path) -> None:
    record = open_run(run)
    assert record.status == "finished"
    assert [result.name for result in record.finished] == ["reward_model", "dpo", "evaluate"]
    assert record.report.policies.keys() == reporting.build(RunFolder(run)).policies.keys() >= {"base", "dpo"}
