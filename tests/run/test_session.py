"""A session gives a script what a stage is given: policies, rewards, trainers and hooks; unknown names are answered."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import stubs
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from rlhf_plugins import (
    Adapter,
    Alarm,
    Base,
    Data,
    DataError,
    Lengths,
    Monitor,
    Run,
    RunError,
    StageResult,
    Step,
    StopRun,
    hookimpl,
    open_run,
    session,
)
from rlhf_plugins.contract import processes
from rlhf_plugins.contract.workload import Course, Known
from rlhf_plugins.registry.registry import Plugin, Registry
from rlhf_plugins.run.stage.stage_run import Services
from rlhf_plugins.run.stop import Stop
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

SPECS = {"a": {"use": "saved", "path": "x"}, "b": {"use": "saved", "path": "y"}}

TERMINATED = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"


def test_unknown_names_are_answered_with_the_nearest(tmp_path: Path) -> None:
    stages = [StageResult(SPECS, name="first"), StageResult({"b": SPECS["b"]}, rewards=SPECS, name="second")]
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run", finished=stages)
    for name, message in (
        ("aa", r"no earlier stage made a policy 'aa' \(did you mean a\? known: a, b\)"),
        ("b", "several stages made a policy 'b': give one of first/b, second/b"),
    ):
        with pytest.raises(RunError, match=message):
            run.policy(name)
    with pytest.raises(RunError, match=r"reward model 'c' \(known: a, b\)"):
        run.reward("c")


def test_a_session_samples_scores_and_goes_on(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    data = tiny_run(base, tmp_path / "x").data
    run = session(base, data, tmp_path / "session")
    samples = run.policy().sample(["how is "], 2, max_new_tokens=3)
    assert run.open("reward", "gold")(samples).reward.shape == (2,)
    assert run.reference().log_probs(samples).shape[0] == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(RunError, match="other is not empty and not a run"):
        session(base, data, tmp_path / "other")


@pytest.mark.parametrize("count", ["", "2"])
def test_a_launcher_sets_a_place_beside_the_number_of_processes(
    count: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(processes.COUNT, count)
    monkeypatch.delenv(processes.PLACE, raising=False)
    session("sandbox", Data(()), tmp_path / "run")  # as where a scheduler alone set the number
    monkeypatch.setenv(processes.COUNT, "2")
    monkeypatch.setenv(processes.PLACE, "0")
    with pytest.raises(RunError, match="a session runs in one process, and a launcher started several"):
        session("sandbox", Data(()), tmp_path / "other")


def test_a_session_goes_on_with_its_own_base_and_seed(tmp_path: Path) -> None:
    session("sandbox", Data(()), tmp_path / "run", seed=1)
    for base, seed, changed in (
        ("sandbox", 0, "seed was 1 and is now 0"),
        ("gpt2", 1, "base was '.*' and is now"),
        (Base("sandbox", adapter=Adapter()), 1, "adapter was None and is now"),
        (Base("sandbox", lengths=Lengths(32)), 1, "max_length was None and is now 32"),
    ):
        with pytest.raises(RunError, match=f"run holds another run: {changed}"):
            session(base, Data(()), tmp_path / "run", seed=seed)


@pytest.mark.parametrize(
    ("end", "status"),
    [("", "finished"), pytest.param("1 / 0", "failed", marks=pytest.mark.slow), (TERMINATED, "interrupted")],
)
@pytest.mark.slow
def test_a_session_has_a_report_and_says_how_it_ended(end: str, status: str, tmp_path: Path) -> None:
    script = f"""import sys, stubs
from rlhf_plugins import Data, session
run = session("sandbox", Data(()), sys.argv[1])
run.log(1, {{"own": 2.0}})
run.train(stubs.Talk(), name="talk")
{end}"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=not end, cwd=Path(stubs.__file__).parent)
    report = open_run(tmp_path).report
    assert (report.status, report.data.train, [stage.name for stage in report.stages]) == (status, 0, ["talk"])
    assert next(open_run(tmp_path).metrics("")) == {"stage": "", "step": 1, "own": 2.0}


def test_a_session_reads_a_file_by_its_columns(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"p{i}", "chosen": "ant", "rejected": "gas"} for i in range(30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    by_path, by_spec = (
        session("sandbox", data, tmp_path / str(i)).data
        for i, data in enumerate((file, {"format": "preference", "source": str(file)}))
    )
    assert by_path == by_spec
    with pytest.raises(DataError, match="no such file, and no data format of that name .*did you mean sandbox"):
        session("sandbox", "sandbx", tmp_path / "never")


class Watcher:
    """Notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    @hookimpl
    def stage_started(self, folder: Path, stage: str, total_steps: int | None) -> None:
        self.heard.append((stage, folder.name, total_steps))

    @hookimpl
    def step_logged(self, stage: str, step: int) -> None:
        self.heard.append((stage, step))

    @hookimpl
    def stage_finished(self, folder: Path, result: StageResult) -> None:
        self.heard.append((result.name, folder.name, [*result.curves]))


class Inner(stubs.Talk):
    def course(self, known: Known) -> Course:
        return Course(2, None, "2 steps")


class Outer(stubs.Talk):
    def run(self, run: Any) -> StageResult:
        return StageResult(curves=run.train(Inner(), name="inner").curves)


def test_hooks_see_a_part_by_both_names(tmp_path: Path) -> None:
    registry, watcher = Registry(), Watcher()
    registry.register(watcher, Plugin("watcher", None, None))  # type: ignore[arg-type]
    run = session("sandbox", Data(()), tmp_path / "run", registry=registry)
    run.train(Outer(), name="outer")
    inner = [("outer/inner", "inner", 2), ("outer/inner", 1), ("outer/inner", 2), ("outer/inner", "inner", ["loss"])]
    assert watcher.heard == [("outer", "outer", None), *inner, ("outer", "outer", ["loss"])]


class Linear(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.weight, self.factor = torch.nn.Parameter(torch.ones(1)), factor

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight * x * self.factor).square().mean()}


def trainer(folder: Path, factor: float) -> Trainer:
    options = {"max_steps": 3, "logging_steps": 1, "report_to": "none", "save_strategy": "no", "use_cpu": True}
    rows = Dataset.from_dict({"x": [1.0] * 8})
    args = TrainingArguments(str(folder), disable_tqdm=True, **options)  # type: ignore[arg-type]
    return Trainer(Linear(factor), args, train_dataset=rows)


def test_any_trainer_is_fitted_with_curves_and_a_check(tmp_path: Path) -> None:
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run", tiny_pairs(2))
    assert [step for step, _ in run.fit(trainer(tmp_path / "a", 1.0))["loss"].points] == [1, 2, 3]
    with pytest.raises(RunError, match="loss became nan at step 1"):
        run.fit(trainer(tmp_path / "b", float("nan")))
    with pytest.raises(RunError, match="fit: expected a transformers Trainer, got int"):
        run.fit(3)


@dataclass(frozen=True)
class Until(Monitor):
    """Slows the training at step 1 and stops or ends it at step 2."""

    action: Literal["stop", "end"] = "stop"

    def build(self, run: Run) -> Callable[[Step], Alarm | None]:
        """What acts."""
        alarms = {1: Alarm("slower", action="scale_lr", factor=0.5), 2: Alarm("enough", action=self.action)}
        return lambda step: alarms.get(step.step)


@dataclass(frozen=True)
class Reader(Monitor, reads_rollouts=True):
    def build(self, run: Run) -> Callable[[Step], Alarm | None]:
        return lambda step: None


@hookimpl
def register_monitor() -> dict[str, type]:
    return {"until": Until}


def test_monitors_watch_the_training_of_a_guest(tmp_path: Path) -> None:
    registry = Registry()
    registry.register(sys.modules[__name__], Plugin("mine", None, None))  # type: ignore[arg-type]
    run = replace(tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run"), services=Services(registry))
    with pytest.raises(RunError, match="enough"):
        run.fit(trainer(tmp_path / "a", 1.0), [Until()])
    rows = [json.loads(line) for line in (tmp_path / "run" / "alarms.jsonl").read_text().splitlines()]
    assert [(row["step"], row["message"]) for row in rows] == [(1, "slower"), (2, "enough")]
    ended = run.fit(trainer(tmp_path / "c", 1.0), [Until(action="end")])
    assert [step for step, _ in ended["loss"].points] == [1, 2]  # of three
    with pytest.raises(RunError, match="fit: a monitor reads rollouts, of which a plugin's Trainer makes none: Reader"):
        run.fit(trainer(tmp_path / "b", 1.0), [Reader()])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_where_nobody_looks_ends_at_once_and_is_not_lost_in_a_finalizer() -> None:
    stop = Stop()
    with stop.listening(lambda line: None), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)

    class Ends:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    swallowed, ends = Stop(), [Ends()]
    with swallowed.listening(lambda line: None):
        ends.clear()
        assert swallowed.stopped()


def test_an_interrupt_asks_a_stage_that_looks_and_the_second_one_ends_it() -> None:
    said: list[str] = []
    stop, own = Stop(), signal.getsignal(signal.SIGINT)
    with stop.listening(said.append):
        assert not stop.stopped()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.stopped()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert said == ["stopping after this step; interrupt again to stop now"]
    assert signal.getsignal(signal.SIGINT) is own


def test_a_plugin_that_stops_a_part_stops_the_run(tmp_path: Path) -> None:
    class Stops:
        @hookimpl
        def step_logged(self) -> None:
            raise StopRun("enough")

    registry = Registry()
    registry.register(Stops(), Plugin("stops", None, None))  # type: ignore[arg-type]
    run = session("sandbox", Data(()), tmp_path / "run", registry=registry)
    with pytest.raises(StopRun, match="enough"):
        run.train(stubs.Talk(), name="talk")
    assert run.stopped()
