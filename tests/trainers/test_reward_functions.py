"""Parts and logs of reward functions in a training: the curves, the table, and TRL's names in a script."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from datasets import Dataset

from rlhf_plugins import RunError
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Adapter, Base, StageResult
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_pairs, tiny_run
from rlhf_plugins.trainers.ppo.oversight import parts_of
from rlhf_plugins.trainers.ppo.refilling import _with_all_parts
from rlhf_plugins.trainers.ppo.scoring import _filled

from .test_online_script import OURS, ants, lines, script

Bases = Callable[..., Base]
OPTIONS = {"max_steps": 2, "per_device_train_batch_size": 6, "num_generations": 3, "max_completion_length": 6}
OPTIONS |= {"learning_rate": 1e-3, "logging_steps": 1, "disable_tqdm": True}
FUNCTIONS = """
import json

def graded(completions, log_metric, log_extra, **_):
    log_metric("longest", float(max(map(len, completions))))
    log_extra("half", [text[: len(text) // 2] for text in completions])
    print(json.dumps(completions), file=open(__file__ + ".seen", "a"))
    rows = [{"score": float(len(text)), "even": len(text) % 2 == 0} for text in completions]
    return [{**row, "half": row["score"] / 2} if place else row for place, row in enumerate(rows)]

def calm(completions, log_metric=None):
    return [0.5] * len(completions)

asked = []

def shrinking(completions):
    asked.append(0)
    return [-(len(asked) // 2) * 1.0] * len(completions)

def taken(completions, log_metric):
    log_metric("reward", 1.0)
    return [float(len(text)) for text in completions]

def late(completions, log_metric):
    log_metric("grad_norm", 1.0)
    return [float(len(text)) for text in completions]

def short(completions, log_extra):
    log_extra("said", ["one"])
    return [float(len(text)) for text in completions]

def nameless(completions):
    rows = [{"reward": 1.0, "acc": 1.0}] * len(completions)
    return rows
"""


def stage(bases: Bases, folder: Path, reward: Any, **words: Any) -> StageResult:
    """A short GRPO in a recipe's words, whose table holds every rollout."""
    (folder / "r.py").write_text(FUNCTIONS)
    own = {"advantage": "grpo", "kl": "none", "shaping": [], "monitors": [], "table": {"every": 1, "rows": 99}}
    made = component("stage", {"use": "online", "reward": reward, "trainer": OPTIONS, **own, **words})
    found: StageResult = made.run(tiny_run(replace(bases(), adapter=Adapter(r=4)), folder / "run", tiny_pairs(12)))
    return found


def python(folder: Path, name: str) -> dict[str, str]:
    return {"use": "python", "path": f"{folder / 'r.py'}:{name}"}


def curve(result: StageResult, name: str) -> list[float]:
    return [value for _, value in result.curves[name].points]


def json_lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def others(folder: Path) -> list[float]:
    """The mean length of the responses of each rollout but the first."""
    return [sum(map(len, texts[1:])) / 5 for texts in json_lines(folder / "r.py.seen")]


def test_parts_of_dicts_are_means_over_the_responses_that_have_them(bases: Bases, tmp_path: Path) -> None:
    """The first response of a rollout has no part `half`."""
    result = stage(bases, tmp_path, python(tmp_path, "graded"))
    lengths = [list(map(len, texts)) for texts in json_lines(tmp_path / "r.py.seen")]
    assert curve(result, "reward/even") == pytest.approx([sum(n % 2 == 0 for n in one) / 6 for one in lengths])
    assert curve(result, "reward/half") == pytest.approx([value / 2 for value in others(tmp_path)])
    assert curve(result, "reward_missing/half") == [1, 1]
    assert result.curves["reward_missing/half"].unit == "responses"
    assert "reward_missing/even" not in result.curves
    rows = json_lines(tmp_path / "run" / "samples.jsonl")
    assert [set(row["parts"]) for row in rows[:2]] == [{"even"}, {"even", "half"}]
    assert all(row["parts"].get("half", row["reward"] / 2) == len(row["response"]) / 2 for row in rows)


def test_what_a_function_logs_is_a_curve_and_in_the_table(bases: Bases, tmp_path: Path) -> None:
    parts = [python(tmp_path, "graded"), python(tmp_path, "calm")]
    result = stage(bases, tmp_path, {"use": "weighted", "parts": parts})
    rows = json_lines(tmp_path / "run" / "samples.jsonl")
    assert curve(result, "longest") == [max(map(len, texts)) for texts in json_lines(tmp_path / "r.py.seen")]
    assert all(row["extra"] == {"half": row["response"][: len(row["response"]) // 2]} for row in rows)
    assert [row["extra"] for row in result.report.rollouts] == [row["extra"] for row in rows]
    assert rows[0]["parts"]["calm"] == 0.5
    assert curve(result, "reward/calm") == [0.5, 0.5]
    assert curve(result, "reward/graded/half") == pytest.approx([value / 2 for value in others(tmp_path)])


def test_held_out_evaluation_has_the_parts_and_what_was_logged(bases: Bases, tmp_path: Path) -> None:
    trainer = {**OPTIONS, "eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 6}
    result = stage(bases, tmp_path, python(tmp_path, "graded"), trainer=trainer)
    texts = json_lines(tmp_path / "r.py.seen")[-1]
    lengths = list(map(len, texts))
    assert curve(result, "eval_reward/even") == pytest.approx([sum(n % 2 == 0 for n in lengths) / len(texts)])
    assert curve(result, "eval_reward/half") == pytest.approx([sum(lengths[1:]) / 2 / (len(texts) - 1)])
    assert (curve(result, "eval_reward_missing/half"), curve(result, "eval_longest")) == ([1], [max(lengths)])


def test_a_part_may_choose_the_best_weights(bases: Bases, tmp_path: Path) -> None:
    best = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 3, "per_device_eval_batch_size": 6}
    best |= {"load_best_model_at_end": True, "metric_for_best_model": "reward/shrinking", "greater_is_better": False}
    rewarded = {"use": "weighted", "parts": [python(tmp_path, "calm"), python(tmp_path, "shrinking")]}
    result = stage(bases, tmp_path, rewarded, trainer={**OPTIONS, **best})
    assert curve(result, "eval_reward/shrinking") == [-1.0, -2.0, -3.0]
    assert result.report.notes[0].endswith("kept step 3, eval_reward/shrinking -3.")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("taken", r"^\S+r\.py:taken: log_metric: the training logs a number 'reward' itself: give yours another name"),
        ("late", r"^\S+r\.py:late: log_metric: the training logs a number 'grad_norm' itself"),
        ("short", r"r\.py:short failed in line 29: ValueError: log_extra: 'said' has 1 value for 6 responses"),
        (
            "nameless",
            r"r\.py:nameless gave a dict with the keys 'reward', 'acc' for the response '.*', without 'sc",
        ),
    ],
)
def test_what_cannot_be_logged_ends_the_training(bases: Bases, tmp_path: Path, function: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        stage(bases, tmp_path, python(tmp_path, function))


def test_of_several_functions_the_one_that_logged_a_number_of_the_training_is_named(
    bases: Bases, tmp_path: Path
) -> None:
    parts = [python(tmp_path, name) for name in ("graded", "taken", "calm")]
    with pytest.raises(RunError, match=r"r\.py:taken: log_metric: the training logs a number 'reward' itself"):
        stage(bases, tmp_path, {"use": "weighted", "parts": parts})


def graded(completions: list[Any], log_metric: Any = None, **_: Any) -> list[Any]:
    if log_metric:
        log_metric("longest", float(max(map(len, completions))))
    rows = [{"score": score, "long": float("nan")} for score in ants(completions)]
    long = [{**row, "long": len(text)} for row, text in zip(rows[1:3], completions[1:3], strict=True)]
    return [None, *long, *rows[3:]]


async def later(completions: list[Any], **_: Any) -> list[Any]:
    return [{"score": 1.0, "length": len(text)} for text in completions]


def test_a_script_logs_the_parts_of_dicts_under_trls_names(bases: Bases, tmp_path: Path) -> None:
    found = script(OURS, bases(), tmp_path, {"max_steps": 1, "log_completions": True}, reward_funcs=[graded, later])
    found.train()
    table = pd.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    lengths = [len(text) for text in table["completion"]]
    (line,) = [one for one in lines(found) if "reward" in one]
    assert line["rewards/graded/long/mean"] == pytest.approx(sum(lengths[1:3]) / 2)
    assert line["rewards/later/length/mean"] == pytest.approx(sum(lengths) / 6)
    assert line["rewards/later/length/std"] == pytest.approx(torch.tensor(lengths).float().std().item(), rel=1e-4)
    assert line["reward_missing/graded/long"] == 4
    assert (line["longest"], line["rewards/later/mean"]) == (max(lengths), 1.0)
    assert not [name for name in line if name.startswith("reward/")]


def test_recipes_and_scripts_name_functions_alike(bases: Bases, tmp_path: Path) -> None:
    def calm(completions: list[Any], **_: Any) -> list[float]:
        return [0.5] * len(completions)

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "r.py").write_text(FUNCTIONS)
    parts = [python(tmp_path, "graded"), python(tmp_path, "calm"), python(tmp_path / "other", "calm")]
    result = stage(bases, tmp_path, {"use": "weighted", "parts": parts})
    names = {name.removeprefix("reward/") for name in result.curves if name.startswith("reward/")}
    assert names == {"graded", "calm", "calm_2", "graded/even", "graded/half"}
    assert {name for row in result.report.rollouts for name in row["parts"]} == names
    found = script(OURS, bases(), tmp_path, {"max_steps": 1}, reward_funcs=[graded, calm, calm])
    found.train()
    means = [name for name in lines(found)[0] if name.startswith("rewards/") and name.endswith("/mean")]
    assert means == [f"rewards/{name}/mean" for name in ("graded", "calm", "calm_2", "graded/long")]


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_trls_own_way_and_evaluation_take_dicts_too(bases: Bases, tmp_path: Path, aggregation: str) -> None:
    options = {"max_steps": 1, "multi_objective_aggregation": aggregation, "eval_strategy": "steps", "eval_steps": 1}
    options |= {"per_device_eval_batch_size": 6, "num_generations_eval": 3}
    rows = Dataset.from_list([{"prompt": "how"}, {"prompt": "how ant"}])
    found = script(OURS, bases(), tmp_path, options, reward_funcs=[graded, later], eval_dataset=rows)
    assert (found.obstacle is None) is (aggregation == "sum_then_normalize")
    found.train()
    logged = {name: value for line in lines(found) for name, value in line.items()}
    for prefix in ("", "eval_"):
        assert logged[f"{prefix}rewards/later/length/mean"] > 0
        assert logged[f"{prefix}rewards/later/mean"] == 1.0
        assert logged[f"{prefix}rewards/graded/long/mean"] > 0


def test_columns_that_functions_log_stay_beside_their_responses(bases: Bases, tmp_path: Path) -> None:
    """The first response has no reward, and is not in the table."""

    def some(completions: list[Any], log_extra: Any, **_: Any) -> list[Any]:
        log_extra("same", list(completions))
        return [None, *ants(completions)[1:]]

    options = {"max_steps": 2, "log_completions": True}
    script(OURS, bases(), tmp_path, options, reward_funcs=some).train()
    for file in sorted((tmp_path / "completions").iterdir()):
        table = pd.read_parquet(file)
        assert table["same"].tolist() == table["completion"].tolist()
        assert len(table)


def test_columns_of_a_rollout_without_rewards_are_not_those_of_the_next(bases: Bases, tmp_path: Path) -> None:
    calls = []

    def late(completions: list[Any], log_extra: Any, **_: Any) -> list[Any]:
        calls.append(list(completions))
        log_extra("same", list(completions))
        return [None] * len(completions) if len(calls) == 1 else ants(completions)

    script(OURS, bases(), tmp_path, {"max_steps": 2, "log_completions": True}, reward_funcs=late).train()
    assert calls[0] != calls[1]
    table = pd.read_parquet(tmp_path / "completions" / "completions_00002.parquet")
    assert table["same"].tolist() == table["completion"].tolist() == calls[1]


def test_a_script_refuses_what_a_recipe_does(bases: Bases, tmp_path: Path) -> None:
    def nameless(completions: list[Any], **_: Any) -> list[Any]:
        return [{"acc": 1.0}] * len(completions)

    def few(completions: list[Any], log_extra: Any, **_: Any) -> list[Any]:
        log_extra("said", ["one"])
        return ants(completions)

    with pytest.raises(RunError, match="reward_funcs: nameless gave a dict with the keys 'acc' for the response"):
        script(OURS, bases(), tmp_path, reward_funcs=[ants, nameless]).train()
    with pytest.raises(RunError, match="reward_funcs: log_extra: 'said' has 1 value for 6 responses"):
        script(OURS, bases(), tmp_path, reward_funcs=few).train()


def test_parts_of_a_rollout_by_hand() -> None:
    nan = float("nan")
    named = {"a": torch.tensor([1.0, nan, 2.0]), "b": torch.tensor([nan] * 3), "c": torch.tensor([1.0, 2.0, 6.0])}
    expected = {"reward/a": 1.5, "reward_missing/a": 1, "reward_missing/b": 3, "reward/c": 3}
    assert parts_of(named) == expected


def test_rounds_and_fallbacks_whose_parts_differ_are_joined() -> None:
    one = Prediction(torch.zeros(1), dimensions={"a": torch.ones(1)})
    both = _with_all_parts([one, Prediction(torch.zeros(2), dimensions={"b": torch.ones(2)})])
    assert [{n: v.isnan().tolist() for n, v in each.dimensions.items()} for each in both] == [
        {"a": [False], "b": [True]},
        {"a": [True, True], "b": [False, False]},
    ]
    silent = replace(one, reward=torch.zeros(2), dimensions={"a": torch.ones(2)}, abstained=torch.tensor([True, False]))
    filled = _filled(silent, Prediction(torch.tensor([5.0])), [0], Samples(["p"] * 2, ["a"] * 2, [[1]] * 2, [[1]] * 2))
    assert filled.dimensions["a"].isnan().tolist() == [True, False]
    assert filled.reward.tolist() == [5.0, 0.0]
