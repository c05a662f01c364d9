"""Rewards that a rule decides: each rule on responses that hold and that do not, and a policy that learns from one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Base
from rlhf_plugins.errors import PluginError, RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.handle import rewards
from rlhf_plugins.testing import tiny_base, tiny_run


def scores(words: Any, responses: list[str], **columns: list[Any]) -> list[float | None]:
    ids = [[1] * len(text.split()) for text in responses]
    samples = Samples(["p"] * len(ids), responses, [[1]] * len(ids), ids, columns)
    return rewards(component("reward", words).build(None)(samples))


def test_exact_match() -> None:
    assert scores("exact_match", [" Yes ", "no", "x"], answer=["Yes", "yes", None]) == [1.0, 0.0, None]
    assert scores({"use": "exact_match", "ignore_case": True}, ["yes"], answer=["YES"]) == [1.0]
    cut = {"use": "exact_match", "pattern": "<answer>(.*)</answer>", "column": "truth"}
    assert scores(cut, ["so <answer>4</answer>", "4"], truth=[4, 4]) == [1.0, 0.0]


def test_the_last_number_counts() -> None:
    answers = ["3 + 4 = 7 #### 1,234", "0.5", 7]
    assert scores("number_match", ["it is 12, no 1234.", "0.6", "none"], answer=answers) == [1.0, 0.0, 0.0]
    assert scores({"use": "number_match", "tolerance": 0.2}, ["0.6"], answer=["0.5"]) == [1.0]


SAME_NUMBER = [("2e-5", "1e-5", 0), ("1e-05", "0.00001", 1), ("3/4", "1/4", 0), ("3 / 4", "0.75", 1), ("1/0", "1", 0)]


@pytest.mark.parametrize(("response", "answer", "expected"), [*SAME_NUMBER, ("1e" + "9" * 5000, "1", 0)])
def test_exponents_and_fractions_are_numbers(response: str, answer: str, expected: float) -> None:
    assert scores("number_match", [response], answer=[answer]) == [expected]
    assert scores({"use": "number_match", "tolerance": 0.3}, ["0.6"], answer=["0.3"]) == [1.0]


PUNCTUATED = [
    *[("3,5", "35", 0), ("1,234,567.5", "1234567.5", 1), ("range 3-5", "5", 1), ("2024-01", "-1", 0)],
    *[("so \u22125", "-5", 1), ("(2)-3", "3", 1), ("x = -3", "-3", 1)],
    *[(r"\frac{3}{4}", "4", 0), (r"-\dfrac{3}{4}", "-0.75", 1), (r"1\frac{1}{2}", "5.5", 0)],
]


@pytest.mark.parametrize(("response", "answer", "expected"), PUNCTUATED)
def test_commas_hyphens_and_fractions_of_latex(response: str, answer: str, expected: float) -> None:
    assert scores("number_match", [response], answer=[answer]) == [expected]


def test_an_answer_is_text_a_number_or_a_truth_value() -> None:
    assert scores("exact_match", ["true", "false"], answer=[True, True]) == [1.0, 0.0]
    for answer in (["a"], {"a": 1}):
        with pytest.raises(RunError, match=f"'p' should be text or a number, found {type(answer).__name__}"):
            scores("exact_match", ["a"], answer=[answer])


RULES = [
    ({"use": "regex", "pattern": "a.b"}, "a\nb", "ab"),
    ({"use": "regex", "pattern": "a+b"}, "xaab", "ba"),
    ({"use": "regex", "pattern": "a+b", "whole": True}, "aab", "xaab"),
    ({"use": "length", "least": 2, "most": 3}, "a b", "a b c d"),
    ("tags", "<think>x\n</think>\n<answer>y</answer>", "<think>x</think> so <answer>y</answer>"),
    ({"use": "json_object", "required": ["a"]}, '{"a": 1, "b": 2}', '{"b": 2}'),
    ("json_object", "{}", "[1]"),
    ("json_object", '{"a": 1}', '{"a": NaN}'),
]


@pytest.mark.parametrize(("words", "right", "wrong"), RULES)
def test_rules(words: Any, right: str, wrong: str) -> None:
    assert scores(words, [right, wrong]) == [1.0, 0.0]


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(PluginError, match=r"pattern: '\(' is no regular expression"):
        component("reward", {"use": "regex", "pattern": "("})
    with pytest.raises(RunError, match="the prompts have no column 'answer' .did you mean anser"):
        scores("exact_match", ["a"], anser=["a"])
    with pytest.raises(RunError, match="the answer to the prompt 'p' is 'x', which has no number"):
        scores("number_match", ["1"], answer=["x"])


def test_a_policy_learns_from_prompts_with_answers(tmp_path: Path) -> None:
    rows = [{"prompt": f"{ask} ", "answer": "ant"} for ask in ("how", "is", "the", "what", "who", "why")]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = {"use": "prompts", "source": str(tmp_path / "a.jsonl")}
    data = component("data_format", words).load(Base(""), 0)
    trainer = {"max_steps": 30, "per_device_train_batch_size": 16, "num_generations": 8, "max_completion_length": 2}
    trainer |= {"learning_rate": 3e-2, "logging_steps": 1, "disable_tqdm": True, "num_iterations": 1}
    weighted = {"use": "weighted", "parts": ["exact_match", "length"], "weights": [1.0, 0.0]}
    parts = {"reward": weighted, "advantage": "grpo", "kl": {"use": "in_reward", "coef": 0.0}}
    stage = component("stage", {"use": "online", "shaping": [], "trainer": trainer, **parts, "monitors": []})
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run")
    result = stage.run(replace(run, data=data))
    found = [value for _, value in result.curves["reward"].points]
    assert sum(found[-5:]) / 5 > sum(found[:5]) / 5 + 0.3
    assert [value for _, value in result.curves["reward/exact_match"].points] == found
    assert {value for _, value in result.curves["reward/length"].points} == {1.0}
