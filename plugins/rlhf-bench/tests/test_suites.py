"""A suite runs each cell once, shows intervals only where there are seeds, and is refused before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rlhf_bench.bundled import find
from rlhf_bench.commands import SUITES, bench, parted
from rlhf_bench.measures import _convergence, _cost, converged
from rlhf_bench.pages import as_json
from rlhf_bench.runs import KILLED, perform, run_all
from rlhf_bench.suite import read

from rlhf_plugins import Cost, Curve, RecipeError, RunError

Write = Callable[..., Path]
STAGE = {"stage": "preference", "name": "dpo", "loss": "dpo"}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown option": ({"sedes": [1]}, "sedes: unknown option (did you mean seeds?"),
    "no budget": ({"budget": None}, "budget: should be one of {flops: NUMBER} or {seconds: NUMBER}"),
    "two budgets": ({"budget": {"flops": 1e9, "seconds": 1}}, "budget: should be one of"),
    "seed twice": ({"seeds": [1, 1]}, "seeds: each seed once"),
    "no such baseline": ({"baseline": "dop"}, "baseline: no algorithm 'dop' (did you mean dpo?"),
    "budget of its own": (
        {"algorithms": {"a": {"stages": [{"stage": "preference", "budget": {"flops": 1}}]}}},
        "a stage has a budget of its own: use `share`",
    ),
    "shares": (
        {"algorithms": {"a": {"stages": [{"stage": "preference", "share": 0.5}]}}, "baseline": "base"},
        "the shares should be 1 together, got [0.5]",
    ),
    "cannot run": (
        {"algorithms": {"ppo": {"stages": [{"stage": "online"}]}}, "baseline": "base"},
        "ppo on clean: recipe: stages.0",
    ),
    "no end": (
        {"algorithms": {"a": {"stages": [{**STAGE, "share": 1.0}, {**STAGE, "name": "b", "share": 0}]}}},
        "algorithms.a.stages: b has no share, and trains without a limit",
    ),
    "a knob of two options": (
        {"algorithms": {"a": {"stages": [STAGE], "knob": {"dpo.loss.beta": [0.1], "dpo.loss.label_smoothing": [0.1]}}}},
        "algorithms.a.knob: should be one option with different numbers",
    ),
    "a name that is taken": ({"algorithms": {"base": {"stages": [STAGE]}}}, "algorithms.base: means the untrained"),
    "on no task": (
        {"algorithms": {"a": {"stages": [STAGE], "not_on": ["clean"]}}},
        "algorithms.a.not_on: should be a list of some of the tasks, got ['clean']",
    ),
    "no mapping": ({"evaluate": 3}, "evaluate: should be a mapping of options, got 3"),
    "one fault of many runs": (
        {"adapter": {"rank": 2}},
        "dpo on clean and 1 more: recipe: adapter.rank: unknown option",
    ),
    "a task to read against": (
        {"tasks": {"clean": {"data": {"format": "sandbox"}, "against": "clear"}}},
        "tasks.clean.against: no other task 'clear' (known: none)",
    ),
    "a knob that names no stage": (
        {"algorithms": {"a": {"stages": [STAGE], "knob": {"beta": [0.1, 0.5]}}}},
        "algorithms.a.knob.beta: begins with no stage of it",
    ),
    "stages that are words": (
        {"algorithms": {"a": {"stages": ["preference"], "knob": {"dpo.loss.beta": [0.1, 0.5]}}}},
        "algorithms.a.stages: should be a list of stages",
    ),
    "a knob through a list": (
        {"algorithms": {"a": {"stages": [{**STAGE, "loss": ["dpo"]}], "knob": {"dpo.loss.beta": [0.1, 0.5]}}}},
        "algorithms.a.knob.dpo.loss.beta: loss is no component or block of options: ['dpo']",
    ),
    "a stage without a name": (
        {"algorithms": {"a": {"stages": [{**STAGE, "name": ["x"]}], "knob": {"dpo.loss.beta": [0.1]}}}},
        "algorithms.a.knob.dpo.loss.beta: begins with no stage of it",
    ),
    "a list of tasks in a list": (
        {"algorithms": {"a": {"stages": [STAGE], "not_on": [["clean"]]}}},
        "algorithms.a.not_on: should be a list of some of the tasks, got [['clean']]",
    ),
    "no policy": (
        {"algorithms": {"a": {"stages": [{"stage": "reward_model"}]}}, "baseline": "base"},
        "algorithms.a.stages: none of them makes a policy",
    ),
    "a number that YAML reads as text": (
        {"budget": {"flops": "2e13"}},
        "budget.flops: should be a finite number above 0, got '2e13'; write 2.0e+13",
    ),
    "a task that is not there": (
        {"algorithms": {"a": {"stages": [{"stage": "preference"}], "not_on": ["claen"]}}, "baseline": "base"},
        "no task 'claen' (did you mean clean?",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_suite_that_cannot_be_run_is_refused_with_its_reason(case: str, suite: Write) -> None:
    changes, message = BAD[case]
    with pytest.raises(RunError) as refused:
        read(suite(**changes))
    assert message in str(refused.value)


def test_an_algorithm_is_left_out_of_a_task_that_is_not_run(suite: Write) -> None:
    rows = {"clean": {"data": {"format": "sandbox"}}, "noisy": {"data": {"format": "sandbox", "prompts": 20}}}
    file = suite(tasks=rows, algorithms={"a": {"stages": [STAGE], "not_on": ["noisy"]}}, baseline="base")
    assert {cell.task for cell in read(file, overrides=["tasks=[clean]"]).cells} == {"clean"}
    with pytest.raises(RunError, match="algorithms.a.not_on: is on none of noisy: select other algorithms"):
        read(file, overrides=["tasks=[noisy]"])


def test_a_task_without_options_is_refused_where_quick_picks_it(suite: Write) -> None:
    with pytest.raises(RunError, match="tasks.clean: needs `data`"):
        read(suite(tasks={"clean": None}, quick={"tasks": ["clean"]}), quick=True)


def test_an_empty_block_of_the_evaluation_is_its_defaults(suite: Write) -> None:
    assert read(suite(evaluate=None)).cells[0].recipe["stages"][-1] == {"stage": "evaluate"}


def test_a_task_that_is_written_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("tasks:\n  clean: {data: sandbox}\n  clean: {data: sandbox}\n")
    with pytest.raises(RecipeError, match="key 'clean' is written twice: on line 2 and on line 3"):
        read(tmp_path / "a.yaml")


def test_a_knob_makes_an_algorithm_of_each_value(suite: Write) -> None:
    stage = {"stage": "preference", "name": "dpo", "loss": "dpo"}
    found = read(suite(algorithms={"dpo": {"stages": [stage], "knob": {"dpo.loss.beta": [0.1, 0.5]}}}, baseline="base"))
    assert found.knobs == {"dpo beta=0.1": ("dpo", 0.1), "dpo beta=0.5": ("dpo", 0.5)}
    assert [cell.recipe["stages"][0]["loss"] for cell in found.cells if cell.seed == 1] == [
        {"use": "dpo", "beta": 0.1},
        {"use": "dpo", "beta": 0.5},
    ]


def test_the_budget_is_divided_by_the_shares(suite: Write) -> None:
    stages = [{"stage": "reward_model", "share": 0.25}, {"stage": "online", "share": 0.75}]
    (cell, _) = read(suite(algorithms={"ppo": {"stages": stages}}, baseline="base")).cells
    assert [stage.get("budget") for stage in cell.recipe["stages"]] == [{"flops": 0.25e12}, {"flops": 0.75e12}, None]
    assert cell.trained == ("reward_model", "online")


@pytest.mark.parametrize("name", [name for name in SUITES if name != "people"])  # which needs their file
@pytest.mark.parametrize("quick", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_bundled_suite_is_sound(name: str, quick: bool) -> None:
    assert read(find(name), quick).cells


def test_the_help_names_the_bundled_suites() -> None:
    assert sorted(SUITES) == sorted(file.stem for file in find(SUITES[0]).parent.glob("*.yaml"))


def test_words_that_begin_with_a_value_are_of_three_ways(tmp_path: Path) -> None:
    assert parted(["budget.flops=1.0", "seeds=[1]"]) == ("three_ways", ["budget.flops=1.0", "seeds=[1]"])
    assert parted(["overfit", "seeds=[1]"]) == ("overfit", ["seeds=[1]"])
    assert parted([]) == ("three_ways", [])
    (file := tmp_path / "a=b.yaml").touch()
    assert parted([str(file)]) == (str(file), [])


def test_a_name_that_no_bundled_suite_has() -> None:
    with pytest.raises(RunError, match="did you mean three_ways"):
        find("three_way")


class Pool:
    """An executor whose process is killed in the first run; every later one works."""

    made = 0

    def __init__(self, *_: Any) -> None:
        Pool.made += 1

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def submit(self, *_: Any) -> Future[str]:
        future = Future[str]()
        if Pool.made == 1:
            future.set_exception(BrokenProcessPool("killed"))
        else:
            future.set_result("")
        return future


def test_a_process_that_is_killed_ends_its_run_alone(
    suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = read(suite()).cells
    monkeypatch.setattr("rlhf_bench.runs.ProcessPoolExecutor", Pool)
    statuses = {cell.digest: "missing" for cell in cells} | {cells[1].digest: "running", cells[2].digest: "failed"}
    monkeypatch.setattr("rlhf_bench.runs.status_of", lambda root, cell: statuses[cell.digest])
    said: list[str] = []
    run_all(cells, tmp_path, jobs=2, retry=True, say=said.append)
    assert [line.partition(": ")[2].partition(";")[0] for line in said[1:]] == [
        KILLED.partition(";")[0],
        *["finished"] * 3,
    ]


def test_runs_that_failed_are_counted(suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_bench.runs.status_of", lambda root, cell: "failed" if cell.seed == 1 else "finished")
    said: list[str] = []
    run_all(read(suite()).cells, tmp_path, say=said.append)
    assert said == ["4 runs, 4 of them there, 2 of these failed (--retry runs them again)"]


@pytest.mark.slow
def test_each_cell_runs_once_and_the_table_has_intervals(
    suite: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench([str(suite())], root=tmp_path / "runs")
    first = capsys.readouterr().out
    assert "4 runs, 0 of them there" in first
    assert "| clean | ipo | 2 |" in first
    assert "not equal compute" in first  # two steps spend almost nothing of the budget
    assert "Judged by" not in first  # the gold reward favours nobody
    assert "| wins over dpo |" in first
    assert "| perplexity | rouge_l |" in first
    assert "tokens/s" in first
    bench([str(suite())], root=tmp_path / "runs")
    again = capsys.readouterr().out
    assert "4 runs, 4 of them there" in again
    assert again.partition("# small")[2] == first.partition("# small")[2]
    line = json.loads((tmp_path / "runs" / "small" / "bench.json").read_text())["lines"][2]
    assert line["algorithm"] == "ipo"
    assert line["gain"]["low"] <= line["gain"]["mean"] <= line["gain"]["high"]
    assert "<svg" in (tmp_path / "runs" / "small" / "bench.html").read_text()


def test_what_another_command_runs_is_left_to_it(suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, others = read(suite()).cells[0], list[str]()
    monkeypatch.setattr("rlhf_bench.runs._nothing", lambda _: others.append(perform(cell, tmp_path)))
    assert not perform(cell, tmp_path)
    assert set(others) == {"left to another command, which runs it"}


@pytest.mark.slow
def test_one_seed_has_no_interval_and_says_so(suite: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench([str(suite())], quick=True, root=tmp_path / "runs")
    assert "there are no intervals and no p-values" in capsys.readouterr().out
    bench_json = json.loads((tmp_path / "runs" / "small-quick" / "bench.json").read_text())
    line = bench_json["lines"][1]
    assert line["gold"]["low"] is line["p"] is None
    assert bench_json["overrides"] == []


def test_convergence_is_the_first_step_with_nine_tenths_of_the_way() -> None:
    steps = [(10, 0.0), (20, 0.0), *((30 + 10 * i, 1.0) for i in range(8))]
    assert converged(Curve(steps)) == 70  # where the moving mean of five is 1 first; 4/5 at step 60
    assert converged(Curve([(10, 1.0), (20, 2.0), *((30 + 10 * i, 3.0) for i in range(8))])) == 60  # 14/5 there
    assert converged(Curve([(1, 1.0), (2, 0.5)])) is converged(Curve([(1, 1.0), (2, 1.0)])) is None


def test_what_stages_cost_together_and_when_the_last_had_risen() -> None:
    rising = Curve([(10, 0.0), (20, 0.0), *((30 + 10 * i, 1.0) for i in range(8))])  # 70 of 100 steps
    first = SimpleNamespace(curves={}, cost=Cost(10.0, 1e10, 100, 0, 0, peak_bytes=9))
    curves = {"kl": Curve([]), "accuracy": rising}
    last = SimpleNamespace(curves=curves, cost=Cost(40.0, 4e10, 400, 100, 60, peak_bytes=7))
    assert _cost([first, last], {"flops": 1e11}) == {
        **{"flops": 5e10, "seconds": 50.0, "spent": 0.5, "trained_tokens": 500, "generated_tokens": 100},
        **{"tokens_per_second": 12.0, "reward_calls": 60, "peak_bytes": 9},
    }
    assert _convergence([first, last]) == {"converged_step": 70, "converged_seconds": 10 + 0.7 * 40}
    assert set(_convergence([last, first]).values()) == {None}


def test_a_table_has_a_line_of_json_for_each_run() -> None:
    content = {"suite": "small", "seeds": [1, 2], "changes": [], "runs": [{"seed": 1, "kl": [0.1]}, {"seed": 2}]}
    text = as_json(content)
    assert json.loads(text) == content
    assert text.splitlines()[4:] == ['"runs": [', '  {"seed": 1, "kl": [0.1]},', '  {"seed": 2}', "]", "}"]
