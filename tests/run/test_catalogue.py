"""Runs are listed, shown and compared from their folders, and only what nothing reads is deleted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace

import pytest
from finished import finished_run

from rlhf_plugins.contract.run import ReportParts
from rlhf_plugins.errors import RunError
from rlhf_plugins.report.page import page
from rlhf_plugins.run.files import catalogue, reporting
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.run.files.lock import locked
from rlhf_plugins.saved.run_reference import made


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return finished_run(tmp_path / "runs/a")


def test_a_run_is_a_line(run: RunFolder) -> None:
    (line,) = catalogue.listed(run.path.parent)  # the base beside it is no run
    assert (line.path, line.status, line.finished, line.stages) == (run.path, "finished", 4, 5)
    assert line.bytes == sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
    run.note(status="running")
    assert catalogue.listed(run.path.parent)[0].status == "killed"  # no process holds it
    (run.path / ".lock").touch()  # which a process that was killed leaves behind
    assert catalogue.listed(run.path.parent)[0].status == "killed"
    with locked(run.path):
        assert catalogue.listed(run.path.parent)[0].status == "running"


def test_trainings_of_a_sweep_are_listed(run: RunFolder, tmp_path: Path) -> None:
    place = tmp_path / "many"
    copytree(run.path, place / "sweep" / "seed-1")
    copytree(run.path, place / "too" / "deep" / "seed-1")
    assert [line.path for line in catalogue.listed(place)] == [place / "sweep" / "seed-1"]


def test_what_a_stage_made_is_written_as_commands_take_it(run: RunFolder) -> None:
    lines = catalogue.stages(run)
    assert [(line.name, line.finished) for line in lines] == [
        ("sft", True), ("dpo", True), ("judge", True), ("evaluate", True), ("late", False),
    ]  # fmt: skip
    assert [line.made for line in lines[1:4]] == [(f"policy {run.path}#dpo",), (f"reward model {run.path}#judge",), ()]
    assert made(lines[1].made[0].removeprefix("policy ")).stage == "dpo"


def test_rows_of_a_stages_own_are_counted_and_its_notes_shown(run: RunFolder) -> None:
    sft = run.finished()[0]
    run.save(
        run.path / "01-sft",
        replace(sft, report=ReportParts(own_data={"train": 40, "test": 2}, notes=["sft kept step 2."])),
    )
    lines = [(line.rows, line.notes) for line in catalogue.stages(run)[:2]]
    assert lines == [("40 groups to train on, 2 held out", ("sft kept step 2.",)), ("", ())]
    found = reporting.build(run)
    assert {name: (own.train, own.test) for name, own in found.data.of_stages.items()} == {"sft": (40, 2)}
    assert "<dt>Own rows of sft</dt><dd>40 to train on, 2 held out</dd>" in page(found)


def test_a_difference_is_found_by_the_stages_name(run: RunFolder, tmp_path: Path) -> None:
    other = finished_run(tmp_path / "runs/b")
    assert [key for key, *_ in catalogue.differences(run, other)] == ["rows.digest"]
    recipe = other.recipe()
    recipe["stages"] = [*recipe["stages"][1:], recipe["stages"][0]]
    recipe["stages"][0]["loss"]["beta"] = 0.5
    other.start(recipe, {"versions": {"torch": "1"}})
    found = {key: both for key, *both in catalogue.differences(run, other)}
    assert found["stages.dpo.loss.beta"] == ["0.1", "0.5"]
    assert "stages.sft.stage" not in found
    assert found["versions.torch"][1] == "1"


def test_scores_say_what_they_are_of(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    row = SimpleNamespace(gold=SimpleNamespace(mean=1.0, low=None, high=None))
    built = iter(SimpleNamespace(score_name=name, policies={"dpo": row}) for name in ("gold reward", "reward"))
    monkeypatch.setattr(reporting, "build", lambda run: next(built))
    assert catalogue.differences(run, run) == [("scores", "gold reward", "reward")]


def test_pruning_keeps_what_is_read(run: RunFolder) -> None:
    for name in ("02-dpo/checkpoint-2", "05-late/checkpoint-1"):
        (run.path / name).mkdir(parents=True)
        (run.path / name / "optimizer.pt").write_bytes(b"0" * 10)
    (run.path / "reference.sqlite").touch()
    found = catalogue.prunable(run)
    assert [path.name for path in found] == ["checkpoint-2", "reference.sqlite"]  # `late` has not finished
    with locked(run.path), pytest.raises(RunError, match="is in use by another run"):
        catalogue.prune(run, found)
    catalogue.prune(run, found)
    assert catalogue.prunable(run) == []
    assert made(f"{run.path}#dpo").policy().sample(["how "], max_new_tokens=2).responses


def test_a_folder_without_a_run_names_those_near(run: RunFolder) -> None:
    with pytest.raises(RunError, match=r"runs/aa: holds no run \(did you mean .*runs/a\?"):
        catalogue.find(run.path.parent / "aa")
    with pytest.raises(RunError, match="nowhere: no such folder"):
        catalogue.listed(Path("nowhere"))


def test_an_old_status_says_what_it_knows(run: RunFolder) -> None:
    (run.path / "status.json").write_text(json.dumps({"status": "failed"}))
    assert catalogue.listed(run.path.parent)[0].started == ""
    assert catalogue.differences(run, run) == []
