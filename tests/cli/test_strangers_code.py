"""A stranger's recipe and fault run no code before the user agrees; a trusted file is remembered by its digest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from safetensors.numpy import save_file

Rlhf = Callable[..., Result]
RECIPE = "base: sandbox\nplugins: [./mine.py]\ndata: {format: sandbox}\nstages: [sft]\n"
MINE = "open('ran', 'w').write('x')\n"


@pytest.fixture(autouse=True)
def stranger(rlhf: Rlhf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe with a file of code in the working directory."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    Path("r.yaml").write_text(RECIPE)
    Path("mine.py").write_text(MINE)


def test_a_check_asks_before_it_runs_a_file(rlhf: Rlhf) -> None:
    done = rlhf("check", "r.yaml")
    assert done.exit_code == 2
    assert "r.yaml names code that would run: " in done.stderr
    assert "mine.py (sha256 " in done.stderr
    assert done.stderr.endswith("read it, then add --trust-plugins\n")
    assert not Path("ran").exists()
    assert rlhf("check", "r.yaml", "plugins=[]").exit_code == 0
    assert not Path("ran").exists()


def test_what_is_trusted_is_remembered_until_it_changes(rlhf: Rlhf) -> None:
    assert rlhf("check", "r.yaml", "--trust-plugins").exit_code == 0
    assert Path("ran").exists()
    assert rlhf("check", "r.yaml").exit_code == 0
    Path("mine.py").write_text(MINE + "# and more\n")
    assert rlhf("check", "r.yaml").exit_code == 2


def test_a_user_at_a_terminal_is_asked(rlhf: Rlhf, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answers: list[Any] = [False, True]

    def confirm(question: str) -> Any:
        asked.append(question)
        return answers[len(asked) - 1]

    monkeypatch.setattr("rlhf_plugins.cli.app.confirmed", lambda: confirm)
    assert [rlhf("check", "r.yaml").exit_code for _ in range(3)] == [2, 0, 0]
    assert len(asked) == 2
    assert asked[0].endswith("Run it?")


def test_a_replay_asks_for_the_files_of_the_fault_and_of_its_recipe(rlhf: Rlhf, tmp_path: Path) -> None:
    stage = tmp_path / "run" / "01-sft"
    stage.mkdir(parents=True)
    fault = {"files": [str(tmp_path / "mine.py")], "building": False}
    (stage / "fault.json").write_text(json.dumps(fault))
    save_file({}, stage / "fault.safetensors")
    assert "fault.json names code that would run: " in rlhf("plugins", "replay", str(stage / "fault.json")).stderr
    (stage / "fault.json").write_text(json.dumps(fault | {"files": []}))
    (tmp_path / "run" / "recipe.yaml").write_text(RECIPE.replace("./mine.py", str(tmp_path / "mine.py")))
    assert "mine.py" in rlhf("plugins", "replay", str(stage / "fault.json")).stderr
    assert not Path("ran").exists()
