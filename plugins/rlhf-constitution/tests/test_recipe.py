"""The whole path at the smallest size: revise, imitate, compare, train a reward model and a policy, evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import RlhfError, RunRecord, load_data, open_run, run_recipe

DATA = {"format": "sandbox", "writer": "sloppy", "prompts": 40, "test_prompts": 8}
ONE_STEP = {"max_steps": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-4}
REVISE = {"stage": "critique_revise", "constitution": "sandbox", "reviser": "simulated", "prompts": 12}
REVISE |= {"sampling": {"max_new_tokens": 32}}
COMPARE = {"stage": "ai_feedback", "constitution": "sandbox", "answers": 3, "prompts": 8}
COMPARE |= {"sampling": {"max_new_tokens": 32}}
Recipe = dict[str, Any]


def quiet(line: str) -> None:
    """Prints nothing."""


def recipe(folder: Path, *stages: dict[str, Any]) -> Recipe:
    return {
        "base": "sandbox",
        "adapter": {"r": 2},
        "data": DATA,
        "output_dir": str(folder / "run"),
        "stages": list(stages),
    }


def after(stage: str, name: str, **options: Any) -> dict[str, Any]:
    return {"stage": stage, "data": {"format": "stage", "stage": name}, "trainer": ONE_STEP, **options}


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """What the two stages of this package make."""
    return open_run(run_recipe(recipe(tmp_path_factory.mktemp("own"), REVISE, COMPARE), say=quiet).folder)


@pytest.mark.slow
def test_every_stage_finishes_and_the_policies_are_judged(tmp_path: Path) -> None:
    online = {"stage": "online", "trainer": {**ONE_STEP, "num_generations": 2, "max_completion_length": 8}}
    evaluate = {"stage": "evaluate", "prompts": 4, "best_of": 1, "ceiling": 2, "max_new_tokens": 16, "metrics": []}
    made = recipe(
        tmp_path,
        REVISE,
        after("sft", "critique_revise"),
        COMPARE,
        after("reward_model", "ai_feedback"),
        online,
        evaluate,
    )
    record = open_run(run_recipe(made, say=quiet).folder)
    assert record.status == "finished"
    assert {"base", "sft", "online"} <= set(record.finished[-1].evaluation.scores)


def test_revisions_are_better_and_the_rejected_are_kept_with_a_reason(record: RunRecord) -> None:
    rows = [
        json.loads(line) for line in (record.folder / "01-critique_revise/revisions.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 12
    attempts = [one for row in rows for one in row["attempts"]]
    assert {True, False} == {one["accepted"] for one in attempts}
    assert all(one["after"] > one["before"] for one in attempts if one["accepted"])
    assert all(one["reason"] for one in attempts if not one["accepted"])


def test_a_revision_stands_above_the_first_answer(record: RunRecord) -> None:
    groups = [group for group in load_data(record.folder / "01-critique_revise").train if len(group.responses) == 2]
    assert groups
    assert all(group.ranks == (0, 1) and group.columns["after"] > group.columns["before"] for group in groups)


def test_preferences_have_soft_labels_within_the_clamp(record: RunRecord) -> None:
    groups = load_data(record.folder / "02-ai_feedback").train
    labels = [one.probability for group in groups for one in group.compared or ()]
    assert labels
    assert all(0.5 < label <= 0.95 for label in labels)


def test_the_report_has_the_principles_before_and_after(record: RunRecord) -> None:
    page = (record.folder / "report.html").read_text()
    assert "Principles before and after revision" in page
    assert "AI feedback" in page


@pytest.mark.parametrize("stage", [REVISE, COMPARE])
def test_a_constitution_that_is_not_there_is_refused_before_anything_runs(
    tmp_path: Path, stage: dict[str, Any]
) -> None:
    with pytest.raises(
        RlhfError, match=r"stages.0.constitution: .*nope.yaml: no such file, nor a bundled constitution"
    ):
        run_recipe(recipe(tmp_path, {**stage, "constitution": "nope.yaml"}), say=quiet)
    assert not (tmp_path / "run").exists()


def test_agreement_with_the_true_reward_and_a_share_for_people(tmp_path: Path) -> None:
    made = recipe(tmp_path, {**COMPARE, "prompts": 16, "gap": 0.05, "people": 0.25, "agreement": 12})
    record = open_run(run_recipe(made, say=quiet).folder)
    (folder,) = record.folder.glob("*-ai_feedback")
    people = [json.loads(line) for line in (folder / "for_people.jsonl").read_text().splitlines()]
    (result,) = record.finished
    feedback, people_agree, agreement = result.sections
    assert people_agree.rows[0]["pairs"] + people_agree.rows[0]["ties of the judge"] == 12
    assert people_agree.rows[0]["kappa"] > 0.3  # of simulated people, who err
    (counts,) = feedback.rows
    assert len(people) == counts["set aside for people"] == round(0.25 * (counts["pairs"] + len(people)))
    assert all({"prompt", "response_a", "response_b"} == row.keys() for row in people)
    kappas = {row["pairs of"]: row["kappa"] for row in agreement.rows}
    assert kappas["all"] > 0.5  # the constitution is the true reward, without noise
    assert "principle harmless" in kappas
