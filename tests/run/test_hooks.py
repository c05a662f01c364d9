"""Plugins hear when a run begins, logs and ends; one that fails is named and harms no other, unless it asks to."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import stubs

from rlhf_plugins import PluginError, RunError, StopRun, hookimpl
from rlhf_plugins.recipe.check import load_recipe
from rlhf_plugins.registry.discovery import found
from rlhf_plugins.registry.registry import Plugin, Registry
from rlhf_plugins.run.run import Finished, run

Write = Callable[..., Path]
Go = Callable[..., Finished]
RECIPE = "base: sandbox\ndata: rows\noutput_dir: out\nstages: [{stage: talk, name: first}]\n"


def plugin(**hooks: Callable[..., Any]) -> ModuleType:
    """A module that implements some hooks; `order` of a hook is given to hookimpl."""
    made = ModuleType("watcher")
    for name, hook in hooks.items():
        setattr(made, name, hookimpl(**getattr(hook, "order", {}))(hook))
    return made


def raising(error: Exception) -> Callable[[], None]:
    def hook() -> None:
        raise error

    return hook


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def go(write: Write, said: list[str]) -> Go:
    """Runs the recipe with the plugins given, in their order."""

    def start(*watchers: ModuleType, **how: Any) -> Finished:
        registry = Registry().admit(found(("rlhf_plugins.lifecycle",), "nobody's"))
        registry.register(stubs, Plugin("stubs", "stub-package", "1.0"))
        for number, watcher in enumerate(watchers):
            registry.register(watcher, Plugin(f"watcher{number}", "rlhf-watch", "2.0"))
        return run(load_recipe(write(RECIPE), registry=registry), say=said.append, **how)

    return start


def test_a_run_tells_its_beginning_its_numbers_and_its_end(go: Go) -> None:
    calls: list[Any] = []

    def started(folder: Path, recipe: dict[str, Any]) -> None:
        calls.append((folder, recipe["base"], (folder / "status.json").exists()))

    def logged(stage: str, step: int, values: dict[str, float]) -> None:
        calls.append((stage, step, values))

    def finished(folder: Path, status: str) -> None:
        calls.append((status, (folder / "01-first/result.json").exists()))

    go(plugin(run_started=started, step_logged=logged, run_finished=finished))
    steps = [("first", 1, {"loss": 2.0}), ("first", 2, {"loss": 1.0})]
    assert calls == [(Path("out"), "sandbox", True), *steps, ("finished", True)]


def test_an_order_may_be_asked_for_and_the_report_is_there_for_who_comes_last(go: Go) -> None:
    calls: list[str] = []

    def watcher(name: str, **order: bool) -> ModuleType:
        def hook(folder: Path) -> None:
            calls.append(name + ("+" if (folder / "report.json").exists() else ""))

        hook.order = order  # type: ignore[attr-defined]
        return plugin(run_finished=hook)

    go(watcher("one"), watcher("last", trylast=True), watcher("two"), watcher("first", tryfirst=True))
    assert calls == ["first", "two", "one", "last+"]


@pytest.mark.parametrize("hook", ["run_started", "step_logged", "run_finished"])
def test_a_hook_that_fails_is_named_once_and_the_run_goes_on(hook: str, go: Go, said: list[str]) -> None:
    reached: list[str] = []
    good = [plugin(**{hook: lambda: reached.append(hook)}) for _ in range(2)]
    report = go(good[0], plugin(**{hook: raising(KeyError("token"))}), good[1]).report
    assert len(reached) == (4 if hook == "step_logged" else 2)
    fault = f"plugin watcher1 (rlhf-watch 2.0): {hook} failed: KeyError: 'token'"
    assert said.count(f"warning: {fault}") == 1
    assert report.status == "finished"
    assert fault in report.notes


def test_a_hook_may_keep_a_run_from_starting(go: Go) -> None:
    with pytest.raises(RunError, match="stopped before its first stage: no budget left"):
        go(plugin(run_started=raising(StopRun("no budget left"))))
    assert not Path("out/01-first").exists()
    assert json.loads(Path("out/report.json").read_text())["status"] == "failed"


def test_a_hook_that_failed_before_a_resume_stays_in_the_report(go: Go) -> None:
    go(plugin(run_started=raising(KeyError("token"))))
    again = go(plugin(run_finished=raising(KeyError("disk"))), resume=True)
    assert [note.partition("failed: ")[2] for note in again.report.notes] == ["KeyError: 'token'", "KeyError: 'disk'"]
    with pytest.raises(RunError, match="stopped before it went on: no budget left"):
        go(plugin(run_started=raising(StopRun("no budget left"))), resume=True)


def test_a_hook_may_stop_a_run_which_then_can_be_resumed(go: Go) -> None:
    with pytest.raises(RunError, match="stage first failed: the loss is as low as it gets"):
        go(plugin(step_logged=raising(StopRun("the loss is as low as it gets"))))
    assert go(resume=True).report.status == "finished"


def test_what_is_logged_can_be_read_while_a_stage_runs_and_after_it_failed(go: Go) -> None:
    seen: list[list[str]] = []

    def logged(folder: Path) -> None:
        seen.append((folder / "metrics.jsonl").read_text().splitlines())
        if len(seen) == 2:
            raise StopRun("enough")

    logged.order = {"trylast": True}  # type: ignore[attr-defined]
    with pytest.raises(RunError):
        go(plugin(step_logged=logged))
    lines = ['{"stage":"first","step":1,"loss":2.0}', '{"stage":"first","step":2,"loss":1.0}']
    assert seen == [lines[:1], lines]
    assert Path("out/metrics.jsonl").read_text().splitlines() == lines
    go(resume=True)
    assert Path("out/metrics.jsonl").read_text().splitlines() == lines


def test_a_run_whose_report_fails_is_finished_all_the_same(go: Go, said: list[str]) -> None:
    Path("out").mkdir(exist_ok=True)

    def block(folder: Path) -> None:
        (folder / "report.json").mkdir()

    made = go(plugin(run_finished=block))
    assert any("lifecycle.report" in line and "cannot be written" in line for line in said)
    assert made.unreported == "out/report.json: cannot be written: Is a directory"
    with pytest.raises(RunError):
        _ = made.report


def test_a_hook_that_ends_the_process_is_reported(go: Go, said: list[str]) -> None:
    def leave() -> None:
        raise SystemExit(0)

    assert go(plugin(step_logged=leave)).report.status == "finished"
    assert "warning: plugin watcher0 (rlhf-watch 2.0): step_logged failed: SystemExit: 0" in said


def test_ctrl_c_while_the_report_is_written_is_asked_back_once(go: Go, said: list[str]) -> None:
    def interrupt() -> None:
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)

    times = 1
    assert go(plugin(run_finished=interrupt)).report.status == "finished"
    assert said[-1] == "writing the report; once more leaves it out"
    times = 2
    assert go(plugin(run_finished=interrupt), overwrite=True).unreported == "interrupted by the user"


def test_a_wrapper_is_refused() -> None:
    def wrapper() -> Any:
        yield

    wrapper.order = {"wrapper": True}  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match="run_started is a wrapper, and each hook is called by itself"):
        Registry().register(plugin(run_started=wrapper), Plugin("w", "rlhf-watch", "2.0"))


def test_commands_belong_in_modules_of_their_own() -> None:
    message = "register_commands belongs in a module that an entry point of the group rlhf_plugins.commands names"
    with pytest.raises(PluginError, match=message):
        Registry().register(plugin(register_commands=lambda: {}), Plugin("w", "rlhf-watch", "2.0"))
