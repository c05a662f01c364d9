"""A run keeps what it finishes, says how it ended, and goes on from there."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.contract.run import Run, StageResult
from rlhf_plugins.data.file_names import RESULT
from rlhf_plugins.engine import NORMS, set_engine
from rlhf_plugins.errors import DataError, RunError
from rlhf_plugins.recipe.check import load_recipe
from rlhf_plugins.registry.registry import Registry
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.run.run import Finished, run, run_recipe

Write = Callable[..., Path]
Go = Callable[..., Finished]

RECIPE = """\
base: sandbox
data: rows
output_dir: out
stages:
  - {stage: make, name: first, loss: {use: scaled, scale: 2}}
  - {stage: make, name: second, flag: flag}
  - judge
"""


@pytest.fixture
def go(write: Write, registry: Registry) -> Go:
    """Runs the recipe, with overrides, in the scratch folder."""

    def start(*overrides: str, **how: Any) -> Finished:
        return run(load_recipe(write(RECIPE), overrides, registry), say=lambda _: None, **how)

    return start


@pytest.fixture
def stopped(go: Go) -> Callable[[str, type[BaseException]], str]:
    """Runs until the second stage stops in a given way, takes the reason away, and returns the message."""

    def start(stop: str, error: type[BaseException]) -> str:
        Path("flag").touch()
        with pytest.raises(error) as caught:
            go(f"stages.second.stop={stop}")
        Path("flag").unlink()
        return str(caught.value)

    return start


def status() -> dict[str, Any]:
    return json.loads(Path("out/status.json").read_text())


def test_a_run_leaves_its_recipe_results_metrics_and_report(go: Go) -> None:
    made = go()
    assert sorted(path.name for path in Path("out").iterdir()) == [
        *(
            "01-first",
            "02-second",
            "03-judge",
            "metrics.jsonl",
            "recipe.yaml",
            "report.html",
            "report.json",
            "status.json",
        )
    ]
    result = json.loads(Path("out/01-first/result.json").read_text())
    assert result["base"] == "01-first/model"
    assert result["metrics"] == {"loss": {"use": "scaled", "scale": 2.0, "steps": [1, 2], "inner": {"use": "plain"}}}
    assert result["cost"]["seconds"] > 0
    assert result["cost"]["peak_bytes"] > 2**20
    assert status()["status"] == "finished"
    assert made.page == Path("out/report.html")


def test_a_stage_starts_from_the_newest_base_and_knows_what_came_before(go: Go) -> None:
    go()
    assert Path("out/01-first/model").read_text() == "made from policy after []"
    assert Path("out/02-second/model").read_text() == "made from model after ['first']"


def test_metrics_have_a_line_a_stage_and_step(go: Go) -> None:
    go()
    lines = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"stage": name, "step": step} | values
        for name in ("first", "second")
        for step, values in ((1, {"loss": 0.5}), (2, {"loss": None, "lr": 0.1}))
    ]


def test_the_report_joins_evaluation_stages_and_data(go: Go) -> None:
    report = go().report
    assert report.data.model_dump() == {"train": 2, "test": 1, "dropped": {"tie": 1}, "of_stages": {}}
    assert [stage.name for stage in report.stages] == ["first", "second", "judge"]
    assert report.policies["first"].seconds == report.stages[0].cost.seconds
    assert report.policies["base"].seconds is None
    assert report.notes == ["a stub"]
    assert [plugin.distribution for plugin in report.plugins] == ["stub-package"]


def test_the_saved_recipe_runs_the_same_again(go: Go, registry: Registry) -> None:
    go()
    again = load_recipe("out/recipe.yaml", ["output_dir=again"], registry)
    run(again, say=lambda _: None)
    old, new = (yaml.safe_load(Path(folder, "recipe.yaml").read_text()) for folder in ("out", "again"))
    assert old | {"output_dir": "again"} == new


def test_an_error_keeps_finished_stages_and_a_resume_skips_them(go: Go, stopped: Callable[..., str]) -> None:
    message = stopped("error", RunError)
    assert "stage second failed: ZeroDivisionError: division by zero in plugin stubs (stub-package 1.0), " in message
    assert (
        "finished stages: first\nonce the cause is gone, go on with: rlhf run --resume out/recipe.yaml (if an option is"
        in message
    )
    assert "ZeroDivisionError" in Path("out/02-second/traceback.txt").read_text()
    assert (status()["status"], status()["stage"]) == ("failed", "second")
    before = Path("out/01-first/result.json").stat().st_mtime_ns
    go("stages.second.stop=error", resume=True)
    assert Path("out/01-first/result.json").stat().st_mtime_ns == before
    assert not Path("out/02-second/traceback.txt").exists()
    assert status()["status"] == "finished"


def test_a_plugin_that_ends_the_process_fails_its_stage(stopped: Callable[..., str]) -> None:
    message = stopped("exit", RunError)
    assert "stage second failed: SystemExit: 0 in plugin stubs (stub-package 1.0), " in message
    assert (status()["status"], status()["stage"]) == ("failed", "second")


def test_a_stage_that_is_lost_is_made_again_with_those_after_it(go: Go) -> None:
    go()
    shutil.rmtree("out/01-first")
    Path("out/02-second/once").mkdir()
    go(resume=True)
    assert Path("out/02-second/model").read_text() == "made from model after ['first']"
    assert not Path("out/02-second/once").exists()


def test_a_resume_with_other_rows_is_refused(go: Go, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    go()
    rows: Any = registry.get("data_format", "rows")
    own = rows.load
    monkeypatch.setattr(rows, "load", lambda *given: replace(own(*given), test=()))
    with pytest.raises(RunError, match="out was started with other rows: test was 1 and is now 0; give the old rows"):
        go(resume=True)


def test_an_error_of_ours_needs_no_traceback(stopped: Callable[..., str]) -> None:
    assert "stage second failed: the loss became nan\n" in stopped("known", RunError)
    assert not Path("out/02-second/traceback.txt").exists()


def test_an_interrupted_run_says_so_and_resumes_to_the_same_end(go: Go, stopped: Callable[..., str]) -> None:
    message = stopped("interrupt", KeyboardInterrupt)
    assert "stage second interrupted by the user\nfinished stages: first\n" in message
    assert status()["status"] == "interrupted"
    assert go("stages.second.stop=interrupt", resume=True).report.status == "finished"
    whole = go("stages.second.stop=interrupt", "output_dir=whole").folder
    assert Path("out/02-second/model").read_text() == (whole / "02-second/model").read_text()
    assert Path("out/metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_a_run_in_the_way_is_not_touched(go: Go) -> None:
    go()
    before = sorted(Path("out").rglob("*"))
    with pytest.raises(RunError, match="out holds a run: add --resume or --overwrite"):
        go()
    assert sorted(Path("out").rglob("*")) == before


def test_overwrite_removes_a_run_and_nothing_else(go: Go) -> None:
    go()
    Path("out/old").touch()
    go(overwrite=True)
    assert not Path("out/old").exists()
    Path("mine").mkdir()
    Path("mine/thesis.tex").touch()
    for how in ({}, {"overwrite": True}):
        with pytest.raises(RunError, match="mine is not empty and not a run of rlhf"):
            go("output_dir=mine", **how)
    assert Path("mine/thesis.tex").exists()


def test_a_stage_that_cannot_be_deleted_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path)
    run.start({"stages": []}, {"status": "finished"})
    (tmp_path / "01-first").mkdir()
    (tmp_path / "01-first" / RESULT).touch()
    monkeypatch.setattr("rlhf_plugins.run.files.folder.shutil.rmtree", lambda *_, **__: None)  # as of another user
    with pytest.raises(RunError, match="01-first cannot be deleted, so .* is not overwritten"):
        run.remove()
    assert run.is_run


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("seed=1", "seed was 0 and is now 1"),
        ("stages.first.loss.scale=3", "stages.0.loss.scale was 2.0 and is now 3.0"),
        ("stages.first.trainer.max_steps=3", "stages.0.trainer.max_steps was None and is now 3"),
        ("stages=[make]", r"stages was \["),
    ],
)
def test_a_resume_with_another_recipe_is_refused(override: str, difference: str, go: Go) -> None:
    go()
    with pytest.raises(RunError, match=f"out was started with another recipe: {difference}"):
        go(override, resume=True)


def test_stages_that_are_not_finished_may_go_on_otherwise(go: Go, stopped: Callable[..., str]) -> None:
    stopped("error", RunError)
    before = Path("out/01-first/result.json").stat().st_mtime_ns
    made = go("stages.second.stop=known", "stages.judge.name=last", resume=True)
    said = " ".join(made.report.notes)
    assert "stages.1.stop was 'error' and is now 'known'" in said
    assert "stages.2.name was 'judge' and is now 'last'" in said
    assert Path("out/01-first/result.json").stat().st_mtime_ns == before
    assert yaml.safe_load(Path("out/recipe.yaml").read_text())["stages"][1]["stop"] == "known"
    with pytest.raises(RunError, match="out was started with another recipe: stages.1.stop was 'known'"):
        go("stages.second.stop=wait", "stages.judge.name=last", resume=True)


def test_what_a_changed_stage_had_begun_is_made_again(go: Go, stopped: Callable[..., str]) -> None:
    stopped("error", RunError)
    Path("out/02-second/checkpoints/000").mkdir(parents=True)
    go("stages.second.name=other", resume=True)
    assert sorted(path.name for path in Path("out").glob("0*")) == ["01-first", "02-other", "03-judge"]


def test_a_run_without_a_finished_stage_is_to_be_started_again(go: Go, stopped: Callable[..., str]) -> None:
    stopped("error", RunError)
    shutil.rmtree("out/01-first")
    with pytest.raises(RunError, match="seed was 0 and is now 1; no stage of it is finished: --overwrite"):
        go("seed=1", resume=True)


def test_a_resume_needs_a_run(go: Go) -> None:
    with pytest.raises(RunError, match="out holds no run to resume"):
        go(resume=True)
    assert not Path("out").exists()


def test_bad_data_leaves_nothing_and_removes_nothing(go: Go) -> None:
    with pytest.raises(DataError):
        go("data.rows=0")
    assert not Path("out").exists()
    go()
    with pytest.raises(DataError):
        go("data.rows=0", overwrite=True)
    assert Path("out/03-judge/result.json").exists()


@pytest.mark.parametrize(
    ("stage", "message"),
    [("evaluate", "stage evaluate: the data hold out 1 prompt, and .* at least 2"), ("evaluate_reward", "nothing to")],
)
def test_too_few_held_out_rows_are_refused_before_anything_is_trained(
    stage: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[Any] = [{"stage": "reward_model", "trainer": {"max_steps": 1}}, stage]
    assembled = load_recipe(
        {"base": "sandbox", "data": "sandbox", "output_dir": str(tmp_path / "out"), "stages": stages}
    )
    rows = Data((Group("p", ("a", "b"), (0, 1)),), prompts={"test": (Group("q"),)})
    monkeypatch.setattr(type(assembled.data), "load", lambda *_: rows)
    with pytest.raises(RunError, match=message):
        run(assembled, say=lambda _: None)
    assert not (tmp_path / "out").exists()


def test_a_base_that_is_nowhere_leaves_nothing(go: Go) -> None:
    with pytest.raises(RunError, match="base nowhere: there is no such folder, and the hub gave no model: "):
        go("base=nowhere")
    assert not Path("out").exists()


def test_a_place_that_cannot_be_written_is_a_run_error(go: Go) -> None:
    Path("file").touch()
    for place in ("file", "file/out"):
        with pytest.raises(RunError, match="file"):
            go(f"output_dir={place}")


def test_nothing_is_written_or_deleted_through_a_link(go: Go) -> None:
    go()
    Path("mine").mkdir()
    Path("mine/thesis.tex").touch()
    for stage in ("01-first", "02-second"):
        shutil.rmtree(f"out/{stage}")
        Path(f"out/{stage}").symlink_to(Path("mine").absolute())
        with pytest.raises(RunError, match=f"out/{stage} is a link, and a run writes into folders of its own"):
            go(resume=True)
        assert Path("mine/thesis.tex").exists()
        Path(f"out/{stage}").unlink()
        Path(f"out/{stage}").touch()
        with pytest.raises(RunError, match=f"out/{stage} is a file where a run needs a folder"):
            go(resume=True)
        Path(f"out/{stage}").unlink()
        go(resume=True)


def test_a_full_disk_is_one_sentence_and_leaves_no_draft(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        if (Path("out/02-second") / "model").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    failed = r"stage second failed: out/02-second/result.json: cannot be written: No space"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=failed):
            go()
    assert [file for file in Path("out").rglob(".*") if file.is_file()] == []
    assert go(resume=True).report.status == "finished"


def test_a_damaged_result_is_named(go: Go) -> None:
    go()
    Path("out/02-second/result.json").write_text("{}")
    with pytest.raises(RunError, match="02-second/result.json is not the result of a stage"):
        go(resume=True)


def test_a_run_without_an_evaluation_has_a_report_of_its_stages(go: Go) -> None:
    report = go("stages=[make]").report
    assert report.policies == {}
    assert [stage.name for stage in report.stages] == ["make"]


def test_the_recipe_that_a_run_keeps_is_about_its_own_folder(
    go: Go, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the folder was moved; the one that it was copied from is left alone."""
    go()
    monkeypatch.setattr("rlhf_plugins.recipe.check.installed", lambda: registry)
    monkeypatch.setattr("rlhf_plugins.run.run.installed", lambda: registry)
    shutil.copytree("out", "copy")
    Path("out/01-first/mark").touch()
    assert run_recipe("copy/recipe.yaml", resume=True, say=lambda _: None).folder == Path("copy")
    run_recipe("copy/recipe.yaml", overwrite=True, say=lambda _: None)
    assert Path("out/01-first/mark").exists()
    assert yaml.safe_load(Path("copy/recipe.yaml").read_text())["output_dir"] == "copy"
    with pytest.raises(RunError, match="copy holds a run: add --resume or --overwrite"):
        run_recipe("copy/recipe.yaml", say=lambda _: None)
    assert run_recipe("copy/recipe.yaml", ["output_dir=other"], say=lambda _: None).folder == Path("other")


def test_a_run_computes_by_its_recipes_engine_and_goes_on_by_another(
    go: Go, stopped: Callable[[str, type[BaseException]], str], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stage_and_engine(_: object, run: Run) -> StageResult:
        seen.append((run.folder.name, NORMS.active(torch.empty(1))))
        result: StageResult = own(_, run)
        return result

    seen: list[tuple[str, bool]] = []
    make: Any = registry.get("stage", "make")
    own = make.run
    monkeypatch.setattr(make, "run", stage_and_engine)
    stopped("error", RunError)
    go("engine=plain", resume=True)
    with set_engine("plain"):
        go(overwrite=True)
    assert seen[:3] == [("01-first", True), ("02-second", True), ("02-second", False)]
    assert seen[3:] == [("01-first", False), ("02-second", False)]
    assert NORMS.active(torch.empty(1))
