"""Conversations: who says what when, why they end, and what each turn earns with the later ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_plugins.contract.rows import Samples, Text
from rlhf_plugins.data.conversations import Conversations, converse, discounted_returns
from rlhf_plugins.errors import DataError


def answers(prompts: Sequence[Text], columns: Mapping[str, Sequence[Any]]) -> Samples:
    """To each prompt its length."""
    texts = [f"<{len(prompt)}>" for prompt in prompts]
    return Samples(list(prompts), texts, [[1]] * len(texts), [[2]] * len(texts), columns)


def asks_of(names: str, times: int) -> Any:
    """An environment that goes on, so many times, in the conversations whose column `name` is one of these."""

    def said(samples: Samples) -> list[str | None]:
        rows = zip(samples.prompts, samples.columns["name"], strict=True)
        return ["\nmore?" if name in names and str(prompt).count("more") < times else None for prompt, name in rows]

    return said


def talked(environment: Any, turns: int, has_room: Any = lambda prompt: True) -> Conversations:
    first = answers(["a", "bb", "c"], {"name": ["x", "y", "z"]})
    return converse(first, lambda prompts, columns: answers(prompts, columns), environment, turns, has_room)


def test_a_later_turn_answers_all_that_was_said_and_keeps_the_columns_of_its_opening() -> None:
    found = talked(asks_of("yz", 2), 3)
    assert found.samples.prompts == [
        "a",
        "bb",
        "c",
        "bb<2>\nmore?",
        "c<1>\nmore?",
        "bb<2>\nmore?<11>\nmore?",
        "c<1>\nmore?<10>\nmore?",
    ]
    assert found.samples.columns["name"] == ["x", "y", "z", "y", "z", "y", "z"]
    assert (list(found.conversation), list(found.turn)) == ([0, 1, 2, 1, 2, 1, 2], [0, 0, 0, 1, 1, 2, 2])
    assert found.following() == [None, 3, 4, 5, 6, None, None]
    assert found.count == 3
    assert not found.cut


def test_conversations_end_with_their_turns_the_environment_or_the_room() -> None:
    assert talked(asks_of("xyz", 9), 2).turn == [0, 0, 0, 1, 1, 1]
    assert talked(asks_of("xyz", 1), 9).turn == [0, 0, 0, 1, 1, 1]
    short = talked(asks_of("xyz", 9), 9, lambda prompt: len(prompt) < 12)
    assert short.turn == [0, 0, 0, 1, 1, 1]
    assert short.cut == 3


def test_messages_get_the_roles_of_those_who_speak() -> None:
    opening = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    first = Samples([opening, opening], ["hello", "yes"], [[1], [1]], [[2], [2]])
    tool = [{"role": "tool", "content": "12"}]
    found = converse(first, answers, lambda samples: ["and now?", tool], 2, lambda prompt: True)
    assert found.samples.prompts[2] == [
        *opening,
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "and now?"},
    ]
    assert found.samples.prompts[3] == [*opening, {"role": "assistant", "content": "yes"}, *tool]


def test_parts_of_text_are_joined_and_a_message_without_text_is_refused() -> None:
    first = answers([[{"role": "user", "content": "hi"}]], {})
    parts = {"role": "tool", "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}]}
    found = converse(first, answers, lambda samples: [[parts]], 2, lambda prompt: True)
    assert found.samples.prompts[1][-1] == {"role": "tool", "content": "12"}
    with pytest.raises(DataError, match="environment: every message of its turn needs a text"):
        converse(first, answers, lambda samples: [[{"role": "tool"}]], 2, lambda prompt: True)


def test_groups_are_the_same_turn_of_conversations_from_one_opening() -> None:
    """Two openings with two responses each: the second turns of 0, 2 and 3 follow."""
    talks = Conversations(answers(["p"] * 7, {}), [0, 1, 2, 3, 0, 2, 3], [0, 0, 0, 0, 1, 1, 1])
    assert talks.groups(2) == [0, 0, 1, 1, 2, 3, 3]


def test_returns_by_hand() -> None:
    """1 + .5 (2 + .5 * 4) = 3, 2 + .5 * 4 = 4, and a conversation of one turn."""
    assert discounted_returns([1.0, 7.0, 2.0, 4.0], [2, None, 3, None], 0.5) == [3.0, 7.0, 4.0, 4.0]


def test_a_return_is_unknown_where_a_later_reward_is_missing_and_counts() -> None:
    assert discounted_returns([1.0, None, 4.0], [1, 2, None], 0.5) == [None, None, 4.0]
    assert discounted_returns([1.0, None, 4.0], [1, 2, None], 0.0) == [1.0, None, 4.0]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.floats(0, 1))
def test_the_return_of_an_opening_is_the_discounted_sum(rewards: list[float], discount: float) -> None:
    following = [place + 1 if place + 1 < len(rewards) else None for place in range(len(rewards))]
    found = discounted_returns(rewards, following, discount)[0]
    assert found == pytest.approx(sum(discount**turn * reward for turn, reward in enumerate(rewards)))
