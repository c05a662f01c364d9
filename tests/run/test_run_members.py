"""Members of a recipe are trained once each; what is finished stays, what fails is said at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import RunError, run_recipe
from rlhf_plugins.data.digests import of_path
from rlhf_plugins.run import origin
from rlhf_plugins.run.files.folder import LOCK, RunFolder
from rlhf_plugins.run.files.lock import locked
from rlhf_plugins.run.members import reports
from rlhf_plugins.run.run import Finished

STUBS = Path(__file__).parents[1] / "stubs.py"
Go = Callable[..., Finished]


@pytest.fixture
def go(tmp_path: Path) -> Go:
    """Runs two seeds of a recipe of stubs, the second stage of which judges."""
    stages = [{"stage": "make", "name": "first", "flag": str(tmp_path / "flag"), "stop": "known"}, "judge"]
    recipe = {"base": "sandbox", "data": "rows", "plugins": [str(STUBS)], "stages": stages}
    recipe |= {"seeds": [0, 1], "output_dir": str(tmp_path / "out")}

    def start(*overrides: str, say: Any = lambda _: None, **how: bool) -> Finished:
        return run_recipe(recipe, overrides, say=say, **how)

    return start


def begun(tmp_path: Path) -> dict[str, int]:
    return {file.parts[-3]: file.stat().st_mtime_ns for file in sorted(tmp_path.glob("out/*/01-first/begun"))}


def test_each_member_is_a_run_in_a_folder_of_its_own(go: Go, tmp_path: Path) -> None:
    made = go()
    assert [folder.name for folder in made.members] == ["seed-0", "seed-1"]
    assert {name: len(found) for name, found in reports(made.folder).items()} == {"": 2}
    assert [report.recipe["seed"] for report in reports(made.folder)[""]] == [0, 1]


def test_members_keep_their_folder_to_one_run(go: Go, tmp_path: Path) -> None:
    refused, words = list[str](), "out is in use by another run of this process"

    def again(line: str) -> None:
        if line.endswith("data: loading"):
            with pytest.raises(RunError, match=words):
                go(overwrite=True)
            refused.append(line.split()[1])

    with locked(tmp_path / "out"), pytest.raises(RunError, match=words):
        go()
    go(say=again)
    assert refused == ["seed-0:", "seed-1:"]
    assert not (tmp_path / "out" / LOCK).exists()


def test_a_finished_member_is_not_trained_again(go: Go, tmp_path: Path) -> None:
    go("seeds=[0]")
    before, said = begun(tmp_path), list[str]()
    go(resume=True, say=said.append)
    assert begun(tmp_path)["seed-0"] == before["seed-0"]
    assert said[0] == "[1/2] seed-0: finished before"
    assert "[2/2] seed-1: data: loading" in said


def test_the_page_over_members_is_there_after_the_first_and_names_the_others(go: Go, tmp_path: Path) -> None:
    page, seen = tmp_path / "out" / "report.html", list[str]()

    def look(line: str) -> None:
        if line == "[2/2] seed-1: data: loading":
            seen.append(page.read_text(encoding="utf-8"))

    go(say=look)
    assert "not in any mean: seed-1." in seen[0]
    assert 'href="seed-0/report.html"' in seen[0]
    assert 'href="seed-1/report.html"' in (now := page.read_text(encoding="utf-8"))
    assert "not in any mean" not in now


def test_a_page_that_cannot_be_written_is_a_warning(go: Go, tmp_path: Path) -> None:
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    said = list[str]()
    assert len(reports(go(say=said.append).folder)[""]) == 2
    assert sum("the page over all members was not written" in line for line in said) == 2


def test_an_interrupt_says_how_all_members_go_on(go: Go) -> None:
    def interrupt(line: str) -> None:
        if "first" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"go on with: .*seed-0/recipe.yaml\nThat is for this member alone"):
        go(say=interrupt)


def test_a_member_that_fails_is_said_at_the_end_and_tried_again(go: Go, tmp_path: Path) -> None:
    (tmp_path / "flag").touch()
    with pytest.raises(RunError, match="2 of 2 members failed: seed-0, seed-1; go on with --resume"):
        go()
    (tmp_path / "flag").unlink()
    assert len(reports(go(resume=True).folder)[""]) == 2


def test_in_several_processes_a_member_that_fails_ends_the_run(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others may be inside that member, and would wait in it for ever."""
    (tmp_path / "flag").touch()
    monkeypatch.setattr("rlhf_plugins.run.members.processes.launched", lambda: 2)
    monkeypatch.setattr("rlhf_plugins.run.run.distributed.refuse", lambda _: None)
    said = list[str]()
    with pytest.raises(RunError, match="stage first .*\n.*\n.*go on with: .*, in 2 processes"):
        go(say=said.append)
    assert not any("seed-1" in line for line in said)


def test_members_that_are_there_are_neither_mixed_nor_deleted_unasked(go: Go) -> None:
    go("seeds=[0]")
    with pytest.raises(RunError, match="seed-0 is there: add --resume or --overwrite"):
        go()


def test_a_finished_member_of_another_recipe_is_not_taken_for_this_one(go: Go) -> None:
    go("seeds=[0]")
    said: list[str] = []
    with pytest.raises(RunError, match="seed-0 was trained with another recipe: stages.0.loss"):
        go("seeds=[1, 0]", "stages.first.loss={use: scaled, scale: 2}", resume=True, say=said.append)
    assert not said, "seed 1 would be of the other recipe, and a report would have the mean of both"


def test_no_mean_is_over_members_of_two_recipes(go: Go) -> None:
    go("seeds=[0, 1]")
    made = go("seeds=[2, 3]", "stages.first.loss={use: scaled, scale: 2}")
    assert [report.recipe["seed"] for report in reports(made.folder)[""]] == [2, 3]


def test_no_mean_is_over_two_files_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seed-0").mkdir()
    (file := tmp_path / "rows.jsonl").write_text("{}\n")
    recipe = {"data": {"source": str(file)}}
    RunFolder(tmp_path / "seed-0").start(recipe, {"read": {str(file): of_path(str(file))}})
    origin.refuse_other_files(RunFolder(tmp_path / "seed-0"), recipe)
    file.write_text("{} \n")
    with pytest.raises(RunError, match="seed-0 was started with another .*rows.jsonl; give the old file back"):
        origin.refuse_other_files(RunFolder(tmp_path / "seed-0"), recipe)


@pytest.mark.slow
def test_a_stop_while_members_are_overwritten_leaves_no_finished_ones_of_two_recipes(go: Go, tmp_path: Path) -> None:
    go("seeds=[0, 1]")

    def stop(line: str) -> None:
        if line.startswith("[2/2]"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go("stages.first.loss={use: scaled, scale: 2}", overwrite=True, say=stop)
    assert [report.recipe["stages"][0]["loss"]["use"] for report in reports(tmp_path / "out")[""]] == ["scaled"]
