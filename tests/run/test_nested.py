"""Stages inside stages: finished calls are read from disk, other calls are refused, and a killed loop goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import stubs
from guest import SelfImprove
from marks import slow

from rlhf_plugins import Adapter, Budget, Curve, DataFormat, PluginError, Run, RunError, StageResult, session, uses
from rlhf_plugins.contract.run import Base
from rlhf_plugins.engine.policy import ModelPolicy
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.run.files.folder import RunFolder
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

TALK: Any = stubs.Talk()


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return replace(tiny_base(tmp_path / "base"), adapter=Adapter(r=4))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return tiny_run(Base("base"), tmp_path / "run")


class Killed(BaseException):
    """What a process dies of."""


class Dies(stubs.Talk):
    def run(self, run: Run) -> Any:
        raise Killed


@dataclass(frozen=True)
class Reads(stubs.Talk):
    data: DataFormat | None = uses("data_format", optional=True, tag="format")


class Logs(stubs.Talk):
    def run(self, run: Run) -> StageResult:
        run.log(1, {"loss": 9.0})  # the stage's own curve is another one
        run.log(3, {"reward": 0.5})
        return StageResult(curves={"loss": Curve([(1, 2.0), (2, 1.0)])})


def test_a_finished_call_returns_from_disk(run: Run) -> None:
    first = run.train(TALK, name="a")
    again = replace(run, history=type(run.history)()).train(stubs.Talk(), name="a")  # type: ignore[attr-defined,type-var]
    assert again == first
    assert (run.folder / "a" / "result.json").exists()
    assert [result.name for result in run.finished] == ["a"]


def test_another_call_of_the_same_name_is_refused_with_both(run: Run) -> None:
    run.train(TALK, name="a")
    with pytest.raises(RunError, match=r"a holds another call of train: data was '\w+' and is now '\w+'"):
        run.train(TALK, name="a", data=replace(run.data, train=run.data.train[:1]))
    with pytest.raises(RunError, match=r"stage.use was 'stubs.Talk' and is now '.*Dies'"):
        run.train(Dies(), name="a")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "a/b"}, "'a/b' cannot name a folder"),
        ({"start": "dpo"}, "no earlier stage made a policy"),
        ({"name": "once"}, "a run keeps files of its own under 'once'"),
        ({"name": "checkpoints"}, "a run keeps files of its own under 'checkpoints'"),
        ({"name": "checkpoint-1"}, "a run keeps files of its own under 'checkpoint-1'"),
        ({"name": "a.jsonl"}, "a run keeps files of its own under 'a.jsonl'"),
    ],
)
def test_arguments_that_cannot_be_met_are_refused(run: Run, given: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        run.train(TALK, **{"name": "a", **given})


def test_data_and_budget_are_given_once(run: Run) -> None:
    rows, budget = component("data_format", "sandbox"), Budget(flops=1)
    for own, given in (({"data": rows}, {"data": run.data}), ({"budget": budget}, {"budget": budget})):
        stage = replace(component("stage", "sft"), **own)
        with pytest.raises(RunError, match=f"the stage has `{next(iter(own))}` of its own, and the call gives another"):
            run.train(stage, name="a", **given)  # type: ignore[arg-type]


def test_a_call_is_known_by_the_rows_that_its_stage_uses(run: Run) -> None:
    def rows(*prompts: str) -> Any:
        pairs = [json.dumps({"prompt": prompt, "chosen": "ant", "rejected": "gas"}) for prompt in prompts]
        (run.folder / "rows.jsonl").write_text("\n".join(pairs))
        return component("data_format", {"use": "preference", "source": f"{run.folder}/rows.jsonl"})

    first = run.train(Reads(data=rows("p", "q")), name="a")
    assert run.train(Reads(data=rows("p", "q")), name="a") == first
    with pytest.raises(RunError, match="a holds another call of train: data was"):
        run.train(Reads(data=rows("p", "q", "r")), name="a")


def test_numbers_that_a_part_logs_are_in_its_curves(run: Run) -> None:
    result = run.train(Logs(), name="a")
    assert result.curves["loss"].points == [(1, 2.0), (2, 1.0)]
    assert (result.curves["reward"].points, result.curves["reward"].better) == ([(3, 0.5)], "higher")


class Leaves(stubs.Talk):
    def run(self, run: Run) -> StageResult:
        return StageResult({"own": {"use": "trained", "path": str(run.folder)}}, metrics={"model": stubs.Decay})


def test_metrics_that_json_cannot_hold_are_named(run: Run) -> None:
    words = "stage Leaves returned the metric 'model' as a type .<class 'stubs.Decay'>.*: leave it out"
    with pytest.raises(PluginError, match=words):
        run.train(Leaves(), name="a")


def test_the_parts_of_a_stage_come_before_it(run: Run) -> None:
    class Outer(stubs.Talk):
        def run(self, run: Run) -> StageResult:
            (run.folder / "mine").mkdir()
            (run.folder / "mine" / "result.json").write_text("my own file")
            return run.train(stubs.Talk(), name="z")

    run.train(Outer(), name="a")
    assert [result.name for result in RunFolder(run.folder).every()] == ["a/z", "a"]


def test_once_makes_a_thing_once_and_gives_it_as_json(run: Run) -> None:
    made: Iterator[Any] = iter([{"a": (1, 2)}])
    assert [run.once("thing", lambda: next(made)) for _ in range(2)] == [{"a": [1, 2]}] * 2
    with pytest.raises(RunError, match="once: 'other' should be what JSON can hold"):
        run.once("other", object)
    assert run.once("other", lambda: 1) == 1


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts samplings."""
    calls: list[int] = []
    sample = ModelPolicy._sample

    def counting(self: Any, *given: Any) -> Any:
        calls.append(1)
        return sample(self, *given)

    monkeypatch.setattr(ModelPolicy, "_sample", counting)
    return calls


def data(base: Base, tmp_path: Path) -> Any:
    return tiny_run(base, tmp_path / "unused", tiny_pairs(8)).data


@pytest.mark.parametrize("at", slow("r0", "r1"))
def test_a_killed_loop_goes_on_without_sampling_again(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    rows, calls = data(base, tmp_path), counted(monkeypatch)
    whole = session(base, rows, tmp_path / "whole").train(SelfImprove(), name="improve")
    expected = len(calls)
    calls.clear()
    run = session(base, rows, tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr("rlhf_plugins.run.stage.perform._describe", dying(at))
        with pytest.raises(Killed):
            run.train(SelfImprove(), name="improve")
    result = session(base, rows, tmp_path / "killed").train(SelfImprove(), name="improve")
    assert len(calls) == expected == 1 + 2 * 2
    assert result.evaluation == whole.evaluation
    assert result.opened == whole.opened


def dying(at: str) -> Any:
    """Dies when the part `at` has been trained and is not saved yet."""
    from rlhf_plugins.run.stage.perform import _describe as own

    def dies(run: Any, stage: Any, result: Any) -> None:
        if run.name.endswith(f"/{at}"):
            raise Killed
        own(run, stage, result)

    return dies


@pytest.mark.slow
def test_a_loop_hands_on_its_winner_and_its_evaluation(base: Base, tmp_path: Path) -> None:
    run = session(base, data(base, tmp_path), tmp_path / "run")
    result = run.train(SelfImprove(), name="improve")
    saved = json.loads((tmp_path / "run/improve/result.json").read_text())
    assert set(result.evaluation.scores) == {"start", "r0", "r1"}  # type: ignore[union-attr]
    assert result.data is not None
    assert 0.5 <= result.data.train[0].comparisons[0].probability < 1  # type: ignore[operator]
    if result.policies:
        assert saved["policies"]["winner"]["path"].startswith("run:improve/r")
        assert run.policy("winner").sample(["how"], max_new_tokens=2).responses


def test_a_part_ends_after_the_step_until_which_it_runs(base: Base, tmp_path: Path) -> None:
    run = session(base, data(base, tmp_path), tmp_path / "run")
    options = {"max_steps": 8, "logging_steps": 1, "per_device_train_batch_size": 2, "disable_tqdm": True}
    dpo = {"use": "preference", "trainer": options}
    result = run.train(dpo, name="dpo", until=lambda step: step.step == 3)
    assert [step for step, _ in result.curves["loss"].points] == [1, 2, 3]
    short = run.train(dpo, name="short", budget=Budget(flops=1))
    assert [step for step, _ in short.curves["loss"].points] == [1]
    half = run.train(dpo, name="half", until=lambda step: step.cost.flops > short.cost.flops)
    assert [step for step, _ in half.curves["loss"].points] == [1, 2]
