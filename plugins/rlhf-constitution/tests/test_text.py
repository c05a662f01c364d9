"""Principles that a program decides, worked by hand."""

from __future__ import annotations

import pytest
from rlhf_constitution.outcome import NotApplicable, Ok
from rlhf_constitution.principle import Principle, bound
from rlhf_constitution.text import Cites, Forbidden, LengthBand, Matches, Repetition, Required

CASES = [
    (LengthBand(2, 4), "one", 0.5),
    (LengthBand(2, 4), "one two three", 1.0),
    (LengthBand(2, 4), "a b c d e f g h", 0.5),
    (Forbidden(["you fool"]), "Well, You Fool.", 0.0),
    (Forbidden(["ass"]), "a class", 1.0),
    (Required(["yes", "but", "no"]), "yes but", 2 / 3),
    (Matches(r"^- "), "text\n- item", 1.0),
    (Matches(r"^- "), "text - item", 0.0),
    (Repetition(2), "a b a b", 2 / 3),  # ab, ba, ab
    (Repetition(3), "a b", 1.0),
]


@pytest.mark.parametrize(("principle", "response", "value"), CASES)
def test_values(principle: Principle, response: str, value: float) -> None:
    outcome = principle("why?", response)
    assert isinstance(outcome, Ok)
    assert outcome.value == pytest.approx(value)
    assert bool(outcome.why) == (value < 1)


def test_a_fact_is_cited_where_the_prompt_asks_for_it() -> None:
    cites = Cites({"water": "100 degrees"})
    assert cites("When does water boil?", "At 100 degrees.") == Ok(1.0)
    assert cites("When does water boil?", "Soon.") == Ok(
        0.0, why="it does not cite '100 degrees'", fix="cite '100 degrees'"
    )
    assert cites("When does oil boil?", "Soon.") == NotApplicable()


def test_a_principle_applies_to_the_prompts_that_it_names() -> None:
    judge = bound(Forbidden(["no"], when="may i"), None)
    assert judge(["May I?", "Why?"], ["no", "no"])[1] == NotApplicable()
    assert judge(["May I?"], ["no"])[0].value == 0
