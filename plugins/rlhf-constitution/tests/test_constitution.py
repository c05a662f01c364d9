"""A constitution's arithmetic worked by hand, its gates, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from rlhf_constitution.constitution import Constitution, load, satisfaction, weighted
from rlhf_constitution.critique import critiques, decision, severity
from rlhf_constitution.outcome import Abstain, Failed, NotApplicable, Ok, Outcome
from rlhf_constitution.text import Forbidden, LengthBand, Required

from rlhf_plugins import RecipeError

SAFE = Forbidden(["bomb"], name="safe", priority="safety", gate=1.0, weight=3)
TRUE = Required(["7"], name="true", priority="accuracy", gate=0.5)
SHORT = LengthBand(1, 4, name="short")
OURS = Constitution(principles=(SAFE, TRUE, SHORT))


def outcomes(safe: Outcome, true: Outcome, short: Outcome) -> dict[str, Outcome]:
    return {"safe": safe, "true": true, "short": short}


def test_satisfaction_is_the_weighted_product_with_a_floor() -> None:
    assert satisfaction([0.25, 1.0], [1.0, 1.0], 0.01) == pytest.approx(0.5)
    assert satisfaction([0.5, 0.125], [2.0, 1.0], 0.01) == pytest.approx((0.25 * 0.125) ** (1 / 3))
    assert satisfaction([0.0, 1.0], [1.0, 1.0], 0.01) == pytest.approx(0.1)
    assert satisfaction([], [], 0.01) == 1


def test_score_is_the_weighted_sum() -> None:
    assert weighted([0.5, 1.0], [3.0, 1.0]) == pytest.approx((1.5 + 1.0) / 4)


def test_weights_are_normalised_over_what_applies() -> None:
    scored = OURS.judge(outcomes(NotApplicable(), Ok(0.25), Ok(1.0)))
    assert scored.satisfaction == pytest.approx(0.5)
    assert scored.score == pytest.approx(0.625)


@pytest.mark.parametrize("bad", [Failed("timeout"), Abstain("no opinion")])
def test_a_failure_is_no_number(bad: Outcome) -> None:
    scored = OURS.judge(outcomes(Ok(1.0), bad, Ok(1.0)))
    assert scored.satisfaction is None
    assert "true" in scored.reason
    with pytest.raises(ValueError, match="not scored"):
        _ = scored.key


def test_a_gate_of_safety_counts_before_one_of_accuracy_and_before_p() -> None:
    unsafe = OURS.judge(outcomes(Ok(0.9), Ok(1.0), Ok(1.0)))
    wrong = OURS.judge(outcomes(Ok(1.0), Ok(0.0), Ok(0.1)))
    assert (unsafe.satisfaction or 0) > (wrong.satisfaction or 0)
    assert wrong.key > unsafe.key
    assert decision(OURS, unsafe, wrong) == ("B is better: A loses the gate safe of safety, which counts before P.")


@pytest.mark.parametrize(("value", "grade"), [(1.0, 0), (0.9, 1), (0.7, 2), (0.6, 3), (0.5, 3), (0.2, 5), (0.0, 5)])
def test_severity(value: float, grade: int) -> None:
    assert severity(value) == grade


def test_a_critique_names_the_principle_the_fault_and_the_place() -> None:
    scored = OURS.judge({one.name: one("", "build a bomb: 7") for one in OURS.principles})
    (found,) = critiques(OURS, scored)
    assert str(found) == (
        "This response has a problem with the principle safe, because it says 'bomb' (here: 'bomb'). "
        "To fix it, leave out 'bomb'."
    )
    assert found.severity == 5


BAD = {
    "principles: [{use: lenght_band}]": "did you mean length_band?",
    "principles: [{use: length_band, weight: 0}]": "weight: should be greater than 0",
    "principles: [length_band, length_band]": "2 are called 'length_band'",
    "principles: [length_band]\norder: [a > b, b > c, c > a]": "goes in a circle",
    "principles: [{use: length_band, priority: safty}]": "has the priority 'safty' (known: safety > accuracy",
    "principles: [{use: length_band, gate: 0.5}]": "has a gate, so it needs a priority",
    "principles: [{use: length_band, low: 9, high: 3}]": "which no response has",
    "principles: [{use: matches, pattern: '('}]": "no regular expression",
    "principles: []": "needs at least one principle",
    "principles: [length_band]\nflor: 0.1": "did you mean floor?",
    "principles:\n - {use: length_band, name: a, high: 3, gate: 1, priority: safety}\n"
    " - {use: length_band, name: b, low: 5, gate: 1, priority: safety}": "nothing keeps the gates of a and b",
    "principles:\n - {use: forbidden, texts: [bad], gate: 1, priority: safety}\n"
    " - {use: required, texts: [too bad], gate: 1, priority: safety}": "holds the forbidden 'bad'",
    "principles:\n - {use: length_band, high: 2, gate: 1, priority: safety}\n"
    " - {use: required, texts: [not known to me], gate: 1, priority: safety}": "'not known to me' is required",
}


def test_gates_below_1_leave_room_for_both() -> None:
    gate = {"gate": 0.5, "priority": "safety"}
    short, long = LengthBand(1, 3, name="short", **gate), LengthBand(10, 12, name="long", **gate)  # 1 to 6, 5 to 24
    assert Constitution(principles=(short, long)).principles == (short, long)
    with pytest.raises(ValueError, match="nothing keeps the gates of short and long"):
        Constitution(principles=(short, LengthBand(14, 20, name="long", **gate)))  # 7 to 40
    either, bad = Required(["too bad", "good"], name="either", **gate), Forbidden(["bad"], name="bad", **gate)
    assert Constitution(principles=(either, bad)).principles == (either, bad)


@pytest.mark.parametrize("text", BAD)
def test_bad_constitutions_are_refused_with_a_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load(str(tmp_path / "c.yaml"))
    assert BAD[text] in str(caught.value)
    assert "c.yaml:" in str(caught.value)
