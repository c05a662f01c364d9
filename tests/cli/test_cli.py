"""The commands print what was asked for, fast, and end with the right code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import Result
from marks import slow
from transformers.utils import logging
from warm import Warm

from rlhf_plugins.cli.app import app

Rlhf = Callable[..., Result]
Shell = Callable[..., subprocess.Popen[str]]
Command = Callable[..., subprocess.CompletedProcess[str]]

RECIPE = """\
base: sandbox
data: rows
stages:
  - {stage: make, name: first}
  - {stage: make, name: second, flag: flag, stop: wait}
"""
SIGNALLED = """
import os, runpy, signal, sys, threading, time
def send():
    while b"waiting" not in os.pread(1, 10_000, 0):
        time.sleep(0.01)
    os.kill(os.getpid(), getattr(signal, name))
name, sys.argv[1:] = sys.argv[1], ["run", "r.yaml"]
threading.Thread(target=send, daemon=True).start()
runpy.run_module("rlhf_plugins.cli", run_name="__main__")
"""


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom rlhf_plugins.cli.app import app\n"
        "app(['run', '--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'matplotlib', 'peft', 'scipy', 'yaml'}\n"
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "RECIPE" in done.stdout
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("words", [["run", "--help"], *slow(["--help"])])
def test_help_answers_at_once(words: list[str]) -> None:
    """Within four times what typer alone needs, on any machine, in processor time, to which others do not add."""

    def seconds(*given: str) -> float:
        begun = os.times()
        subprocess.run([sys.executable, *given], capture_output=True, check=True)
        ended = os.times()
        return ended.children_user + ended.children_system - begun.children_user - begun.children_system

    ours, typers = ("-m", "rlhf_plugins.cli", *words), ("-c", "import typer.rich_utils")
    assert min(seconds(*ours) for _ in range(5)) < 4 * min(seconds(*typers) for _ in range(5))


def test_the_version_is_that_of_the_package(rlhf: Rlhf) -> None:
    assert rlhf("--version").stdout == f"rlhf-plugins {version('rlhf-plugins')}\n"


def test_check_names_the_stages(rlhf: Rlhf) -> None:
    Path("r.yaml").write_text("base: sandbox\ndata: sandbox\nstages: [reward, {stage: online, name: ppo}]\n")
    result = rlhf("check", "r.yaml")
    assert (result.exit_code, result.output.splitlines()[0]) == (0, "r.yaml: ok, 2 stages: reward, ppo")
    assert rlhf("check", "r.yaml", "stages=[sft]").stdout.startswith("r.yaml: ok, 1 stage: sft\n")
    assert [path.name for path in Path().iterdir()] == ["r.yaml"]


def test_check_names_the_line_of_what_a_run_would_refuse_and_what_it_did_not_look_at(rlhf: Rlhf) -> None:
    row = {"prompt": "p", "completion": "c"}
    Path("rows.jsonl").write_text("".join(json.dumps({**row, "prompt": f"{place}"}) + "\n" for place in range(4)))
    Path("r.yaml").write_text(
        "base: sandbox\ndata:\n  {format: supervised, source: rows.jsonl}\nstages:\n  - stage: preference\n"
    )
    refused = rlhf("check", "r.yaml")
    said = "r.yaml:5: stages.0: no pair of responses is strictly ordered: there is nothing to learn from\n"
    assert (refused.exit_code, refused.stderr) == (2, said)
    assert rlhf("check", "r.yaml", "stages=[sft]").exit_code == 0
    left = rlhf("check", "r.yaml", "data.source=owner/rows").stdout.splitlines()[-1]
    assert left == "  not looked at: data set owner/rows, which is on the hub"
    assert sorted(path.name for path in Path().iterdir()) == ["r.yaml", "rows.jsonl"]


def test_plugins_are_listed_with_their_source(rlhf: Rlhf) -> None:
    rows = [line.split() for line in rlhf("plugins", "list").stdout.splitlines()]
    source = ["components.reward_loss", "rlhf-plugins", version("rlhf-plugins"), "ok"]
    assert ["reward_loss", "bradley_terry", *source] in rows
    losses = rlhf("plugins", "list", "--kind", "reward_loss").stdout
    assert {line.split()[0] for line in losses.splitlines()} == {"reward_loss"}
    assert "did you mean reward_loss?" in rlhf("plugins", "list", "--kind", "reward_los").stderr


def test_a_plugin_is_shown_with_its_options(rlhf: Rlhf) -> None:
    shown = rlhf("plugins", "show", "advantage", "gae").stdout
    assert shown.startswith("advantage gae, from components.advantage (rlhf-plugins ")
    assert "  lam: float = 0.95  0 is one-step TD, 1 is Monte Carlo" in shown.splitlines()
    unknown = rlhf("plugins", "show", "advantage", "gea")
    assert unknown.exit_code == 2
    assert unknown.stderr.startswith("unknown advantage 'gea' (did you mean gae? known: dr_grpo, gae, ")


def test_the_schema_is_json(rlhf: Rlhf) -> None:
    schema = json.loads(rlhf("schema").stdout)
    assert "enum" in schema["properties"]["stages"]["items"]["anyOf"][0]


def test_a_run_prints_each_stage_and_its_page(command: Command, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    done = command("run", "r.yaml")
    assert done.returncode == 0, done.stderr
    loading, data, *lines = done.stdout.splitlines()
    assert (loading, data) == ("data: loading", "data: 2 groups to train on, 1 held out, 1 dropped (tie)")
    assert [line.split(" in ")[0] for line in lines[:4]] == [
        f"[{i}/2] {name}: {state}" for i, name in ((1, "first"), (2, "second")) for state in ("running", "finished")
    ]
    assert lines[-1] == "runs/r/report.html"
    assert command("report", "runs/r").stdout.splitlines()[-1] == "runs/r/report.html"


def assert_goes_on(err: str, command: Command, folder: Path) -> None:
    """What a run that a signal ended has said and left, and that it goes on."""
    assert "Traceback" not in err
    assert err.endswith("finished stages: first\ngo on with: rlhf run --resume runs/r/recipe.yaml\n")
    assert json.loads((folder / "runs/r/status.json").read_text())["status"] == "interrupted"
    assert json.loads((folder / "runs/r/report.json").read_text())["status"] == "interrupted"
    (folder / "flag").unlink()
    out = command("run", "--resume", "runs/r/recipe.yaml").stdout
    assert "\n[1/2] first: finished before\n[2/2] second: running\n" in out


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_keeps_finished_stages_and_says_how_to_go_on(
    name: str, code: int, shell: Shell, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "flag").touch()
    process = shell("run", "r.yaml")
    assert process.stdout is not None
    while process.stdout.readline() != "waiting\n":
        assert process.poll() is None
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert_goes_on(err, command, tmp_path)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), *slow(("SIGTERM", 143))])
def test_so_does_one_that_it_sends_itself(
    name: str, code: int, python: Warm, installed: tuple[Path, Path], command: Command, tmp_path: Path
) -> None:
    """In a process that need not import the libraries first."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "flag").touch()
    done = python("-c", SIGNALLED, name, cwd=tmp_path, path=installed)
    assert done.returncode == code
    assert_goes_on(done.stderr, command, tmp_path)


@pytest.mark.slow
def test_a_report_that_cannot_be_written_has_a_code_of_its_own(command: Command, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    command("run", "r.yaml")
    (tmp_path / "runs/r/report.json").unlink()
    (tmp_path / "runs/r/report.json").mkdir()
    done = command("run", "--resume", "r.yaml")
    assert done.returncode == 3
    assert "the run is finished, without its report: runs/r/report.json: cannot be written: Is a dir" in done.stderr
    assert done.stderr.endswith("write it with: rlhf report runs/r\n")
    assert command("report", "runs/r").returncode == 3
    (tmp_path / "runs/r/report.json").rmdir()
    assert command("report", "runs/r").returncode == 0


def test_a_closed_pipe_is_no_traceback(shell: Shell) -> None:
    process = shell("recipes")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert "Exception" not in err


def test_a_check_of_a_plugin_draws_no_bars_of_loading(rlhf: Rlhf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_plugins.cli.plugins_check._subjects", lambda *_: [])
    logging.enable_progress_bar()
    rlhf("plugins", "check", "bradley_terry")
    assert not logging.is_progress_bar_enabled()


@pytest.mark.parametrize(
    ("word", "said"), [("lead", "an option is written key=value"), ("lead=[", "is not a YAML value")]
)
def test_a_word_that_is_no_option_of_a_component_is_told(rlhf: Rlhf, word: str, said: str) -> None:
    result = rlhf("plugins", "check", "bradley_terry", word)
    assert (result.exit_code, said in result.output) == (2, True)


def test_a_check_of_a_kind_that_a_package_has_not_is_refused(rlhf: Rlhf) -> None:
    result = rlhf("plugins", "check", "rlhf-plugins", "--kind", "reward_los")
    assert (result.exit_code, "(did you mean reward_loss? known: " in result.output) == (2, True)


@pytest.mark.parametrize("resume", [True, False])
def test_a_resume_that_is_interrupted_while_it_loads_says_how_to_go_on(
    resume: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlhf_plugins.run.run.run_recipe", interrupted)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my r.yaml").write_text(RECIPE)
    with pytest.raises(SystemExit) as caught:
        app(["run", *["--resume"] * resume, "my r.yaml", "seed=1"])
    said = "interrupted before a stage began\ngo on with: rlhf run --resume 'my r.yaml' seed=1"
    assert capsys.readouterr().err == f"\n{said if resume else 'interrupted'}\n"
    assert caught.value.code == 130
