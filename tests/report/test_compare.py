"""Several reports in one table, and what keeps them from being compared in words."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from finished import finished_run
from rich.console import Console

from rlhf_plugins.report.compare import compared, compared_reward_models, compared_tasks, obstacles
from rlhf_plugins.report.schema import Report
from rlhf_plugins.run.files import reporting


def report_of(folder: Path) -> Report:
    return reporting.build(finished_run(folder))


def printed(table: Any) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=80).print(table)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_row_is_a_policy_of_a_run(tmp_path: Path) -> None:
    reports = {name: report_of(tmp_path / name / "run") for name in ("a", "b")}
    lines = printed(compared(reports))
    rows = [line.split()[:3] for line in lines[3:]]
    assert rows == [[run, *row] for run in ("a", "b") for row in (["base", "0.500"], ["dpo", "1.625"])]
    assert max(map(len, lines)) <= 80


def test_what_is_not_on_one_scale_is_said(tmp_path: Path) -> None:
    one = report_of(tmp_path / "a" / "run")
    two = one.model_copy(update={"score_name": "judge", "recipe": {**one.recipe, "base": "other"}})
    empty = one.model_copy(update={"policies": {}, "reference": None})
    assert obstacles({"a": one, "b": one}) == []
    assert obstacles({"a": one, "b": two, "c": empty}) == [
        "c: no policy was evaluated.",
        "The scores are by different judges: a gold reward, b judge.",
        f"The bases differ: a {one.recipe['base']}, b other.",
    ]


def test_other_references_prompts_and_rows_are_said(tmp_path: Path) -> None:
    one = report_of(tmp_path / "a" / "run")
    policies = {"base": one.policies["base"], "dpo": one.policies["dpo"].model_copy(update={"n": 99})}
    recipe = {**one.recipe, "data": {"format": "sandbox"}}
    two = one.model_copy(update={"reference": None, "policies": policies, "recipe": recipe})
    groups = f"({one.data.train} and {one.data.test} groups)"
    assert obstacles({"a": one, "b": two}) == [
        "The references differ: a base, b none.",
        f"The numbers of prompts differ: a {one.policies['dpo'].n}, b 99.",
        f"The data differ: a pairs.jsonl {groups}, b sandbox {groups}.",
    ]


def test_another_sampling_is_said(tmp_path: Path) -> None:
    one = report_of(tmp_path / "a" / "run")
    stages = [[*one.recipe["stages"], {"stage": "evaluate", **how}] for how in ({}, {"top_p": 0.9, "top_k": 5})]
    plain, cut = (one.model_copy(update={"recipe": {**one.recipe, "stages": each}}) for each in stages)
    assert obstacles({"a": plain, "b": plain}) == []
    said = "The responses are sampled otherwise: a temperature 1, b temperature 1, top_p 0.9, top_k 5."
    assert obstacles({"a": plain, "b": cut}) == [said]


def test_runs_that_were_judged_by_other_weights_say_so(tmp_path: Path) -> None:
    values = report_of(tmp_path / "run").model_dump() | {"score_name": "reward model score"}
    judge = {"kind": "reward model", "stage": "reward"}
    one, same, other = (Report.model_validate(values | {"judge": {**judge, "digest": name}}) for name in "aab")
    assert obstacles({"a": one, "b": same}) == []
    (said,) = obstacles({"a": one, "b": other})
    assert said.endswith("different judges: a reward model score (reward a), b reward model score (reward b).")


def test_tasks_have_a_table(tmp_path: Path) -> None:
    one = report_of(tmp_path / "run")
    assert compared_tasks({"a": one}) is None
    rows = [{"task": name, "policy": "dpo", "rows": 9, "share": "5.0% [1.0, 9.0]"} for name in ("sums", "quiz")]
    stages = [
        *one.model_dump()["stages"],
        {"stage": "evaluate", "name": "more", "sections": [{"title": "Tasks", "rows": rows}]},
    ]
    tasked = Report.model_validate({**one.model_dump(), "stages": stages})
    *_, first, second, third, _ = printed(compared_tasks({"a": tasked, "b": tasked}))
    found = [line.split()[:4] for line in (first, second, third)]
    assert found == [["quiz", "a", "dpo", "9"], ["quiz", "b", "dpo", "9"], ["sums", "a", "dpo", "9"]]


def test_reward_models_have_a_table(tmp_path: Path) -> None:
    one = report_of(tmp_path / "run")
    model = {"accuracy": 0.75, "ece": 0.1, "n": 8, "accuracy_interval": {"mean": 0.75, "low": 0.5, "high": 1.0}}
    values = {**one.model_dump(), "reward_models": {"judge": model}}
    *_, row = printed(compared_reward_models({"a": Report.model_validate(values)}))
    assert row.split() == ["a", "judge", "75.0%", "[50.0%,100.0%]", "8", "0.100"]
