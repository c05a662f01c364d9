"""The reader asks on after answers that do not sound final, and about nothing that is held out."""

from __future__ import annotations

import pytest

from rlhf_plugins.sandbox.gold import gold
from rlhf_plugins.sandbox.reader import next_question, with_history
from rlhf_plugins.sandbox.world import OOD_TOPICS, VALUES, parse_prompt, prompts

SPLITS = ("train", "test", "out_of_distribution")
FINAL, OPEN = "the fox is red.", "the fox is red. people say many things."


def test_it_leaves_after_an_answer_that_sounds_final_and_asks_on_after_another() -> None:
    assert next_question("what is the color of the fox?\n", FINAL) is None
    assert next_question("what is the color of the fox?\n", "") is None
    said = next_question("what is the color of the fox?\n", OPEN)
    assert said is not None
    query = parse_prompt(said)
    assert query is not None
    assert (query.topic, query.harmful) == ("fox", False)
    assert query.subject != "color"
    assert next_question("what is the color of the fox?\n", OPEN) == said


def test_it_leaves_when_it_has_asked_all_that_it_may() -> None:
    conversation, asked = "what is the color of the fox?\n", 0
    while said := next_question(conversation, OPEN):
        conversation, asked = f"{conversation}{OPEN}{said}", asked + 1
    assert 1 <= asked < len(VALUES)


def test_a_prompt_of_no_world_is_not_continued() -> None:
    assert next_question("who are you?\n", OPEN) is None


@pytest.mark.parametrize("split", SPLITS)
def test_earlier_questions_are_of_the_training_prompts_or_out_of_distribution(split: str) -> None:
    allowed = {kind: set(prompts(kind)) for kind in ("train", "out_of_distribution")}
    for prompt in prompts(split)[:40]:
        text = with_history(prompt, 3, 0)
        assert text.endswith(prompt)
        assert parse_prompt(text) == parse_prompt(prompt)
        query = parse_prompt(prompt)
        assert query is not None
        known = allowed["out_of_distribution" if query.topic in OOD_TOPICS else "train"]
        asked = [f"{line}\n" for line in text.removesuffix(prompt).splitlines() if parse_prompt(line)]
        assert len(asked) <= 2
        assert all(question in known for question in asked)
        assert len({parse_prompt(question) for question in [*asked, prompt]}) == len(asked) + 1


def test_histories_have_all_lengths_and_one_turn_has_none() -> None:
    texts = [with_history(prompt, 3, 0) for prompt in prompts("train")[:60]]
    assert {text.count("\n") for text in texts} == {1, 3, 5}
    assert all(with_history(prompt, 1, 0) == prompt for prompt in prompts("train")[:5])


def test_an_answer_is_worth_as_much_in_a_conversation() -> None:
    alone = gold("what is the color of the fox?\n", FINAL)
    assert alone.total > 0
    assert gold(f"which food does the fox have?\n{OPEN}\nwhat is the color of the fox?\n", FINAL) == alone
