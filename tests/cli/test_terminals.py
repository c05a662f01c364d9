"""Output that goes nowhere or to a terminal of few letters is no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "rlhf_plugins.cli"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "words",
    [
        ["recipes"],
        ["--help"],
        pytest.param(["schema"], marks=pytest.mark.slow),
        pytest.param(["plugins", "list"], marks=pytest.mark.slow),
    ],
)
def test_a_full_output_is_one_sentence(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr


def checked(folder: Path) -> subprocess.CompletedProcess[str]:
    """`rlhf check ä.yaml` on such a terminal."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    return subprocess.run([*COMMAND, "check", "ä.yaml"], cwd=folder, env=environment, capture_output=True, text=True)


def test_an_error_on_a_terminal_of_few_letters_is_no_traceback(tmp_path: Path) -> None:
    done = checked(tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert ".yaml:1: no such file, nor a bundled recipe of that name" in done.stderr


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_recipe_that_is_not_there_is_refused_before_anything_heavy_is_imported(command: str) -> None:
    code = (
        "import sys\nfrom rlhf_plugins.cli.app import app\n"
        f"app(['{command}', 'no.yaml'], standalone_mode=False)\nprint({{'torch', 'trl'}} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "no such file, nor a bundled recipe of that name" in done.stderr
    assert done.stdout == "set()\n"


@pytest.mark.slow
def test_a_terminal_of_few_letters_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "ä.yaml").write_text("base: sandbox\ndata: {format: sandbox}\nstages: [sft]\n")
    done = checked(tmp_path)
    assert done.returncode == 0
    assert done.stdout.partition("\n")[0].endswith(".yaml: ok, 1 stage: sft")
