"""What monitors read of a rollout, by hand: one number each, None where there is none to read."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from rlhf_watch.alarms import reward_gap, signals

from rlhf_plugins import Prediction, Samples, Step

NAN = math.nan


def step(asked: dict[str, str] | None = None, members: list[list[float]] | None = None, **numbers: list[float]) -> Step:
    """A rollout of responses with the prompt of each."""
    samples = None
    if asked is not None:
        ids = [[0]] * len(asked)
        samples = Samples(list(asked.values()), list(asked), ids, ids)
    prediction = None
    if members is not None:
        prediction = Prediction(torch.zeros(len(members)), members=torch.tensor(members))
    return Step("online", 0, None, {}, samples, prediction, responses=numbers)


@pytest.mark.parametrize(
    ("values", "mean", "deviation"),
    [([1.0, 3.0], 2.0, 1.0), ([1.0, NAN, 3.0], 2.0, 1.0), ([5.0], 5.0, None), ([NAN], None, None), ([], None, None)],
)
def test_numbers_of_responses(values: list[float], mean: float | None, deviation: float | None) -> None:
    assert signals.length(step(tokens=values)) == mean
    assert signals.entropy(step(entropy=values)) == mean
    assert signals.reward_deviation(step(reward=values)) == deviation


def test_a_rollout_without_a_number_has_none() -> None:
    every = (signals.length, signals.entropy, signals.reward_deviation, signals.disagreement, signals.repetition)
    assert [read(step()) for read in every] == [None] * 5
    assert signals.boilerplate(step(), ["sorry"]) is None
    assert signals.disagreement(Step("", 0, None, {}, prediction=Prediction(torch.zeros(2)))) is None


def test_members_disagree_by_their_deviation() -> None:
    """Of 1 and 3 it is sqrt 2, of 2 and 2 it is 0; a response that one of them did not judge is left out."""
    found = signals.disagreement(step(members=[[1.0, 3.0], [2.0, 2.0], [NAN, 9.0]]))
    assert found == pytest.approx(math.sqrt(2) / 2)


@pytest.mark.parametrize(
    ("text", "share"), [("a b a b a b", 0.5), ("a b c d", 0.0), ("a a a a a", 2 / 3), ("a b c", 0.0), ("a b", 0.0)]
)
def test_sequences_of_three_words_that_come_again(text: str, share: float) -> None:
    assert signals.repeated(text) == pytest.approx(share)
    assert signals.repetition(step({text: "p", "q": "p"})) == pytest.approx(share / 2)


def test_boilerplate_holds_a_phrase_or_opens_as_responses_to_other_prompts() -> None:
    asked = {
        "But I'm SORRY": "p",
        "One two three four five six": "p",
        "one  two three four five seven": "q",
        "a b c d e f": "r",
        "a b c d e g": "r",  # as another response to the same prompt
        "h i j k": "p",
        "h i j l": "q",
        "": "p",
        " ": "q",
    }
    phrases = ["i'm sorry", "As an AI"]
    assert signals.stock(step(asked), phrases) == [True, True, True, *[False] * 6]
    assert signals.boilerplate(step(asked), phrases) == pytest.approx(3 / 9)


def test_a_judge_that_abstains_audits_nothing() -> None:
    answer = Prediction(torch.tensor([1.0, 2.0]), abstained=torch.tensor([False, True]))
    every: list[Any] = [reward_gap._numbers(answer), reward_gap._numbers([1.0, None])]
    assert [[worth for worth in worths if math.isfinite(worth)] for worths in every] == [[1.0], [1.0]]
    assert answer.reward.tolist() == [1.0, 2.0]
    assert reward_gap._numbers(Prediction(torch.tensor([1.0, 2.0]))) == [1.0, 2.0]
