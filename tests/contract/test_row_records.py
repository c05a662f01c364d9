"""Rows made in Python are checked when they are made."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_plugins import Comparison, Data, DataError, Evaluation, Group, RunError, Samples

BAD: list[tuple[dict[str, Any], str]] = [
    ({"ranks": (0,)}, "ranks should have 2 values, one per response, got 1"),
    ({"ratings": {"helpful": (1.0,)}}, "ratings of 'helpful' should have 2 values"),
    ({"weight": float("nan")}, "weight should be a finite number of at least 0, got nan"),
    ({"margin": float("inf")}, "margin should be a finite number, got inf"),
    ({"compared": (Comparison(0, 2),)}, "a comparison of responses 0 and 2 of 2"),
    ({"ranks": (0, -1)}, r"ranks should be None or at least 0, got \[0, -1\]"),
    ({"gold": (float("nan"), 1.0)}, "gold should be finite numbers, None where one is missing"),
    ({"ratings": {"helpful": (1.0, float("inf"))}}, "ratings of 'helpful' should be finite numbers"),
    ({"responses": ("a", 1)}, "a response should be text or messages, got int"),
]


def test_prompts_have_the_same_words_whatever_their_case_and_space() -> None:
    assert Group("Why is  the sky\n\tBLUE? ").prompt_words == "why is the sky blue?"
    said = [{"role": "user", "content": content} for content in ("Why\n so?", " why so? ", "why so")]
    parts = [[{"role": "user", "content": [{"type": "text", "text": text}]}] for text in ("Why\n so?", "WHY so?")]
    one, other, third = (Group([message]).prompt_words for message in said)
    assert one == other != third
    assert Group(parts[0]).prompt_words == Group(parts[1]).prompt_words
    assert Group([said[0], said[0]]).prompt_words != one
    assert Group("caf\u00e9").prompt_words == Group("CAFE\u0301").prompt_words == "caf\u00e9"


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_a_field_that_does_not_fit_the_responses_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Group(**{"prompt": "p", "responses": ("a", "b"), **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"worse": 0}, "a comparison of response 0 with itself"),
        ({"probability": 1.5}, "probability should be between 0 and 1, got 1.5"),
        ({"probability": float("nan")}, "probability should be between 0 and 1, got nan"),
        ({"weight": -1.0}, "weight should be a finite number of at least 0"),
    ],
)
def test_a_judgement_that_teaches_nothing_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Comparison(**{"better": 0, "worse": 1, **fields})


def test_an_evaluation_has_scores_of_every_policy_for_every_prompt() -> None:
    with pytest.raises(RunError, match=r"no scores of the reference \(did you mean start\?"):
        Evaluation("gold", "strat", ["a"], {"start": [1.0]})
    with pytest.raises(RunError, match="evaluation: 2 scores of start for 1 prompts"):
        Evaluation("gold", "start", ["a"], {"start": [1.0, 2.0]})


def test_data_holds_groups() -> None:
    with pytest.raises(DataError, match=r"prompts\['train'\] should hold groups, such as Group\(prompt\), not str"):
        Data((Group("p", ("a", "b")),), prompts={"train": ("p",)})  # type: ignore[dict-item]


def test_samples_have_as_much_of_each_as_responses() -> None:
    with pytest.raises(DataError, match="prompt_ids should have 2 values, one per response, got 1"):
        Samples(["p", "p"], ["a", "b"], [[1]], [[2], [3]])
    with pytest.raises(DataError, match="truth should have 1 values, one per response, got 2"):
        Samples(["p"], ["a"], [[1]], [[2]], {"truth": [4, 5]})


def test_what_is_compared_follows_the_responses_that_are_taken_and_joined() -> None:
    one, other = (Samples(["p", "p"], list(texts), [[1]] * 2, [[2]] * 2) for texts in ("ab", "cd"))
    assert (one + other).groups() == [0, 0, 0, 0]
    pairs = one.beside(other)
    assert (pairs.responses, pairs.groups()) == (["a", "b", "c", "d"], [0, 1, 0, 1])
    assert pairs.take([3, 0, 1]).groups() == [0, 1, 0]  # d, a and b, of which d and b are a pair
    assert (pairs + one).groups() == [0, 1, 0, 1, 2, 2]
    with pytest.raises(DataError, match="2 responses and 1 are no pairs"):
        one.beside(other.take([0]))
    with pytest.raises(DataError, match="siblings should have 1 values, one per response, got 2"):
        Samples(["p"], ["a"], [[1]], [[2]], siblings=[0, 0])
