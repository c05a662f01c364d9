"""What stages leave of reward models reaches the report, with what each cost to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.contract.run import Cost, Curve, Evaluation, ReportParts, Section, StageResult
from rlhf_plugins.errors import RunError
from rlhf_plugins.run.files import reporting
from rlhf_plugins.run.files.folder import RunFolder

HARDWARE = {"cpu": "a", "cores": 1, "memory_bytes": 1, "platform": "b"}
STATUS = {"status": "finished", "started": "2025-06-01T09:30:00Z", "versions": {}, "hardware": HARDWARE, "plugins": []}


def left(folder: Path, *results: StageResult) -> Any:
    run = RunFolder(folder / "run")
    run.start({"stages": []}, STATUS | {"data": {"train": 2, "test": 1, "dropped": {"tie": 0, "repeated row": 3}}})
    for index, result in enumerate(results):
        (folder_of_stage := run.stage(index, result.name)).mkdir()
        run.save(folder_of_stage, result)
    return reporting.build(run)


def measured(name: str, **accuracies: float) -> StageResult:
    rows = {model: {"accuracy": accuracy, "ece": 0.1, "n": 4} for model, accuracy in accuracies.items()}
    return StageResult(name=name, cost=Cost(1.0), report=ReportParts(reward_models=rows))


def test_reward_models_keep_their_order_and_their_last_numbers(tmp_path: Path) -> None:
    plain = StageResult(name="plain", cost=Cost(7.0, peak_bytes=2**20))
    made = left(tmp_path, plain, measured("early", plain=0.5), measured("late", plain=0.6, other=0.7))
    assert {name: model.accuracy for name, model in made.reward_models.items()} == {"plain": 0.6, "other": 0.7}
    assert (made.reward_models["plain"].seconds, made.reward_models["plain"].peak_bytes) == (7.0, 2**20)
    assert made.reward_models["other"].seconds is None
    assert made.policies == {}


def test_a_run_that_measured_no_reward_model_reports_none(tmp_path: Path) -> None:
    assert left(tmp_path, StageResult(name="plain")).reward_models == {}


def test_notes_are_reported_without_an_evaluation(tmp_path: Path) -> None:
    assert left(tmp_path, StageResult(name="plain", report=ReportParts(notes=["ended early"]))).notes == ["ended early"]


def test_reasons_for_which_no_row_was_left_out_are_not_listed(tmp_path: Path) -> None:
    made = left(tmp_path, StageResult(name="dpo", report=ReportParts(left_out={"too long": 2, "cut": 0})))
    assert made.data.dropped == {"repeated row": 3, "dpo: too long": 2}


@pytest.mark.parametrize("status", [{"status": "finished"}, STATUS | {"data": {}}, STATUS | {"data": 3}])
def test_a_damaged_status_is_told(tmp_path: Path, status: dict[str, Any]) -> None:
    run = RunFolder(tmp_path / "run")
    run.start({"stages": []}, status)
    with pytest.raises(RunError, match="run: its status or a result is damaged"):
        reporting.build(run)


def judged(name: str, judge: str, **scores: list[float]) -> StageResult:
    evaluation = Evaluation(judge, "base", ["p", "q"], scores)
    return StageResult(name=name, stage="critique", evaluation=evaluation, report=ReportParts(notes=[name]))


def test_an_evaluation_of_any_stage_is_reported_the_last_one_first(tmp_path: Path) -> None:
    early = judged("early", "judge one", base=[0.0, 0.0], dpo=[1.0, -3.0])
    late = judged("late", "judge two", base=[1.0, 1.0], dpo=[2.0, 4.0])
    trained = StageResult(name="train", policies={"dpo": {"use": "policy"}}, cost=Cost(9.0))
    made = left(tmp_path, trained, early, late)
    assert (made.score_name, made.reference, made.notes) == ("judge two", "base", ["early", "late"])
    assert (made.policies["dpo"].gold.mean, made.policies["dpo"].seconds) == (3.0, 9.0)
    assert made.policies["dpo"].gain is not None
    assert made.policies["dpo"].gain.mean == 2.0
    assert made.evaluations["early"].policies["dpo"].gold.mean == -1.0
    assert made.evaluations["early"].policies["dpo"].win_rate.mean == 0.5


def test_sections_costs_units_numbers_and_lineage_of_a_stage_are_reported(tmp_path: Path) -> None:
    result = StageResult(
        name="gate",
        stage="self_improve",
        sections=[Section("Gate", "Passed.", [{"round": 1, "passed": True}])],
        curves={"kept": Curve([(1, 0.5)], "share", "higher")},
        metrics={"rounds": 2},
        cost=Cost(1.0, 2e9, 3, 4, 5, 6),
        opened=["sft.policies.sft"],
    )
    (stage,) = left(tmp_path, result).stages
    assert stage.sections[0].rows == [{"round": 1, "passed": True}]
    assert (stage.curves["kept"].unit, stage.curves["kept"].better) == ("share", "higher")
    assert list(stage.cost.model_dump().values()) == [1.0, 2e9, 3, 4, 5, 6, None]
    assert (stage.stage, stage.metrics, stage.opened) == ("self_improve", {"rounds": 2}, ["sft.policies.sft"])


def test_a_policy_is_compared_with_its_start_and_with_the_best(tmp_path: Path) -> None:
    dpo = StageResult(name="dpo", policies={"dpo": {"use": "policy"}}, start="base")
    ppo = StageResult(name="ppo", policies={"ppo": {"use": "policy"}}, start="dpo")
    scores = judged("late", "judge", base=[1.0, 1.0], dpo=[2.0, 4.0], ppo=[3.0, 7.0])
    rows = left(tmp_path, dpo, ppo, scores).policies
    assert (rows["dpo"].stage, rows["dpo"].start, rows["dpo"].start_gain) == ("dpo", "base", None)
    assert (rows["ppo"].start, rows["ppo"].start_gain.mean) == ("dpo", 2.0)
    assert (rows["dpo"].behind.mean, rows["ppo"].behind, rows["base"].behind) == (2.0, None, None)


def test_a_judge_is_known_by_the_weights_of_the_stage_that_trained_it(tmp_path: Path) -> None:
    parts = ReportParts(judge={"kind": "reward model", "stage": "reward"})
    judged = StageResult(name="evaluate", evaluation=Evaluation("s", "base", ["p"], {"base": [0.0]}), report=parts)
    trained = StageResult(name="reward")
    assert left(tmp_path, trained, judged).judge.digest == ""
    run = RunFolder(tmp_path / "run")
    (run.stage(0, "reward") / "head.safetensors").write_bytes(b"w")
    run.save(run.stage(0, "reward"), trained)
    judge = reporting.build(run).judge
    assert judge is not None
    assert len(judge.digest) == 64
