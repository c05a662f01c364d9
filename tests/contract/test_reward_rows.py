"""Answers of reward functions: dicts with a score and parts beside numbers, and what is refused."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
import pytest
import torch

from rlhf_plugins.contract.answers import rewards
from rlhf_plugins.contract.function_logs import listening, logs_of
from rlhf_plugins.contract.reward_rows import Wrong, distinct
from rlhf_plugins.contract.rows import Samples

SAMPLES = Samples(["p", "p", "q"], ["a", "bb", "ccc"], [[1]] * 3, [[2], [2, 3], [2, 3, 4]])


def test_a_dict_is_its_score_and_parts_that_some_rows_may_lack() -> None:
    given = [{"score": 1, "format": True, "near": None}, {"score": 0.5, "near": np.float32(0.25)}, 2.0]
    found = rewards(given, SAMPLES)
    assert found.reward.tolist() == [1.0, 0.5, 2.0]
    assert found.abstained is None
    assert list(found.dimensions) == ["format", "near"]
    assert found.dimensions["format"].tolist() == pytest.approx([1.0, nan, nan], nan_ok=True)
    assert found.dimensions["near"].tolist() == pytest.approx([nan, 0.25, nan], nan_ok=True)


def test_a_dict_abstains_where_its_score_is_none_and_may_pay_tokens() -> None:
    found = rewards([{"score": None, "format": 1.0}, None, {"score": 3.0}], SAMPLES)
    assert (found.reward.tolist(), found.abstained.tolist()) == ([0.0, 0.0, 3.0], [True, True, False])
    by_token = rewards([{"score": [1.0]}, {"score": [1.0, 2.0]}, {"score": torch.ones(3)}], SAMPLES)
    assert by_token.tokens.tolist() == [[1, 0, 0], [1, 2, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"reward": 1.0, "acc": 1.0}, r"a dict with the keys 'reward', 'acc' for the response 'bb', without 'score'"),
        ({}, "a dict with no keys for the response 'bb', without 'score': a dict has `score`, the reward, and further"),
        ({"score": "1"}, "'1' as 'score' for the response 'bb': it is a number, or None where there is no reward"),
        ({"score": nan}, "gave nan for the response 'bb'"),
        ({"score": 1.0, "said": "b"}, "'b' as 'said' for the response 'bb': a part is a number, or None"),
        ({"score": 1.0, "all": [1.0, 2.0]}, r"\[1.0, 2.0\] as 'all' for the response 'bb': a part is a number"),
        ({"score": 1.0, "near": nan}, "nan as 'near' for the response 'bb': a part is a finite number"),
        ({"score": 1.0, 2: 1.0}, "the key 2 for the response 'bb': the name of a part is a text"),
        ({"score": 1.0, "a\n": 1.0}, r"the key 'a\\n' for the response 'bb'"),
    ],
)
def test_a_dict_that_is_none_of_a_reward_is_named_with_its_response(row: dict[Any, Any], message: str) -> None:
    with pytest.raises(Wrong, match=message):
        rewards([{"score": 1.0}, row, {"score": 1.0}], SAMPLES)


def test_as_many_dicts_as_responses() -> None:
    with pytest.raises(Wrong, match="gave 1 row for 3 responses"):
        rewards([{"score": 1.0}], SAMPLES)
    with pytest.raises(Wrong, match="gave one dict with the keys 'rewards', not a list with a number or a dict for ea"):
        rewards({"rewards": [1.0] * 3}, SAMPLES)


def test_names_are_kept_but_where_two_are_one() -> None:
    assert distinct(["f", "g"]) == ["f", "g"]
    assert distinct(["f", "f", "f_2", "f"]) == ["f", "f_3", "f_2", "f_4"]


def test_what_is_logged_is_heard_by_the_innermost_listener() -> None:
    with listening() as heard:
        logs = logs_of(SAMPLES)
        logs["log_metric"]("longest", 3)
        logs["log_metric"]("longest", torch.tensor(5.0))
        logs["log_metric"]("longest", nan)
        logs["log_metric"]("unmeasured", nan)
        logs["log_extra"]("said", [np.float64(1.5), {"a": 1}, nan])
        with listening():
            logs_of(SAMPLES)["log_metric"]("longest", 100.0)
    logs_of(SAMPLES)["log_metric"]("longest", 100.0)
    assert heard.means() == {"longest": 4.0}
    assert [heard.extra(p, r) for p, r in (("p", "a"), ("p", "bb"), ("q", "ccc"), ("q", "a"))] == [
        *({"said": value} for value in (1.5, {"a": 1}, "nan")),
        {},
    ]


@pytest.mark.parametrize(
    ("what", "given", "message"),
    [
        ("log_metric", ("", 1.0), "the name '' is no text"),
        ("log_metric", ("near", "much"), "'near' is 'much', not a finite number"),
        ("log_metric", ("near", float("inf")), "'near' is inf, not a finite number"),
        ("log_extra", ("said", ["a"]), "'said' has 1 value for 3 responses"),
        ("log_extra", ("said", "abc"), "'said' has a text for 3 responses"),
        ("log_extra", (None, ["a"] * 3), "the column None is no text"),
    ],
)
def test_what_cannot_be_logged_is_named(what: str, given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"{what}: {message}"):
        logs_of(SAMPLES)[what](*given)
