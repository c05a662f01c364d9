"""Rounds of revision on drafts made by hand: what is accepted, what is rejected and why, which edit is taken."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from rlhf_constitution.constitution import Constitution, Scored
from rlhf_constitution.revision import Draft, Limits, Makers, Request, edit, from_json, revise, to_json
from rlhf_constitution.text import Forbidden, Required

OURS = Constitution(
    principles=(
        Forbidden(["fool"], name="kind", priority="safety", gate=1.0),
        Required(["yes", "please"], name="says", weight=2.0),
    )
)


def score(prompts: Sequence[str], texts: Sequence[str]) -> list[Scored]:
    return [OURS.judge({one.name: one(*row) for one in OURS.principles}) for row in zip(prompts, texts, strict=True)]


def draft(text: str) -> Draft:
    return Draft.of("why?", text, score(["why?"], [text])[0])


def after(text: str, *rounds: list[str], limits: Limits | None = None) -> Draft:
    """The draft after rounds in which these texts are proposed."""
    proposals = iter(rounds)

    def propose(requests: Sequence[Request], seed: int) -> list[list[str]]:
        return [next(proposals, []) for _ in requests]

    return revise([draft(text)], OURS, Makers(propose, score), len(rounds), limits or Limits())[0]


@pytest.mark.parametrize(
    ("proposal", "reason"),
    [
        ("maybe", "P does not rise"),
        ("yes please fool", "loses the gate kind"),
        ("", "empty"),
        ("well  so", "seen before"),
        ("yes please of course dear", "changes 1.00 of the tokens, more than 0.80"),
    ],
)
def test_a_proposal_is_rejected_with_a_reason(proposal: str, reason: str) -> None:
    found = after("well so", [proposal], limits=Limits(edit=0.8))
    assert found.text == "well so"
    assert [(one.accepted, one.reason) for one in found.attempts] == [(False, reason)]


def test_a_further_check_may_reject_it() -> None:
    checks = (lambda prompt, first, text: "", lambda prompt, first, text: "it means something else")
    found = after("well so", ["yes please"], limits=Limits(checks=checks))
    assert found.attempts[0].reason == "it means something else"


def test_the_smallest_edit_that_settles_the_principle_is_taken() -> None:
    found = after("well so it is", ["yes please it is so then", "yes please it is", "yes so it is"])
    assert found.text == "yes please it is"
    assert [one.reason for one in found.attempts if not one.accepted] == ["another proposal is better"] * 2


def test_where_nothing_settles_it_the_highest_p_is_taken() -> None:
    assert after("well so it is", ["yes so it is", "yes it was"]).text == "yes so it is"


def test_a_lost_gate_comes_first_and_then_the_next_principle() -> None:
    found = after("you fool", ["you"], ["yes please you"])
    assert [one.critique.principle for one in found.attempts] == ["kind", "says"]
    assert found.text == "yes please you"


def test_a_clean_answer_is_left_alone_and_a_request_without_a_proposal_is_noted() -> None:
    assert after("yes please", ["yes"]).attempts == ()
    assert [one.reason for one in after("well so", []).attempts] == ["no proposal"]


def test_an_edit_counts_words() -> None:
    assert edit("a b c d", "a x c") == 0.5  # one replaced, one taken out, of 4
    assert edit("", "") == 0


def test_a_draft_survives_json() -> None:
    found = after("you fool", ["you"], ["yes please you"])
    assert from_json(to_json(found)) == found
