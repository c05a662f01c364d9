"""The summary's verdict follows from the numbers, and never claims more than they hold."""

from __future__ import annotations

from typing import Any

from rlhf_plugins.report import summary
from rlhf_plugins.report.schema import Report


def _summary(fields: dict[str, Any], **means: tuple[float, float] | None) -> list[str]:
    """The summary of policies of the given (mean, half width); None is a policy without a score."""
    rest = {"n": 8, "length": 1.0, "distinct_1": 1.0, "distinct_2": 1.0}
    known = {name: pair or (float("nan"), float("nan")) for name, pair in means.items()}
    policies = {
        name: {"gold": {"mean": mean, "low": mean - half, "high": mean + half}, **rest}
        for name, (mean, half) in known.items()
    }
    return summary(
        Report.model_validate(fields | {"policies": policies, "reference": "sft" if "sft" in means else None})
    )


def test_winner_clear_of_reference_and_next(fields: dict[str, Any]) -> None:
    assert _summary(fields, sft=(0.4, 0.1), dpo=(0.65, 0.04), ppo=(0.75, 0.05)) == [
        "ppo has the highest gold reward, 0.750 (95% CI 0.700 to 0.800), which is 0.350 above the reference sft.",
        "sft scores 0.400 (95% CI 0.300 to 0.500); the interval of ppo is clear of it.",
        "Next is dpo, 0.650 (95% CI 0.610 to 0.690); the interval of ppo is clear of it.",
    ]


def test_overlap_is_said(fields: dict[str, Any]) -> None:
    said = _summary(fields, sft=(0.5, 0.1), ppo=(0.6, 0.1))
    assert said[1:] == ["sft scores 0.500 (95% CI 0.400 to 0.600); the interval of ppo overlaps it."]


def test_touching_intervals_are_not_clear(fields: dict[str, Any]) -> None:
    assert "overlaps" in _summary(fields, sft=(0.25, 0.25), ppo=(0.75, 0.25))[1]


def test_no_winner_when_the_reference_is_best_or_equal(fields: dict[str, Any]) -> None:
    for reference in (0.7, 0.6):
        said = _summary(fields, ppo=(0.6, 0.1), sft=(reference, 0.1))
        assert said[0].startswith("No policy beats the reference sft")


def test_one_policy_none_and_unmeasured(fields: dict[str, Any]) -> None:
    fields["reward_model"] = None
    assert _summary(fields) == ["No policy was evaluated in this run."]
    assert _summary(fields, sft=None) == ["No policy was evaluated in this run."]
    assert _summary(fields, ppo=(0.6, 0.1)) == ["Only ppo was evaluated: gold reward 0.600 (95% CI 0.500 to 0.700)."]


def test_without_a_score_of_the_reference_no_gain_is_claimed(fields: dict[str, Any]) -> None:
    said = _summary(fields, sft=None, dpo=(0.5, 0.01), ppo=(0.6, 0.01))
    assert said[0] == "ppo has the highest gold reward, 0.600 (95% CI 0.590 to 0.610)."


def test_paired_gain_takes_the_place_of_the_difference(report: Report) -> None:
    assert "0.260 (95% CI 0.235 to 0.285) above the reference sft" in summary(report)[0]


def test_reward_models_speak_where_no_policy_was_evaluated(rewards: Report, fields: dict[str, Any]) -> None:
    assert summary(rewards) == [
        "plain is the most accurate reward model: it orders 74.2% (95% CI 70.7% to 77.7%) of 560 held-out pairs as "
        "people did.",
        "Always preferring the longer response is right on 57.1%.",
        "Next is gaussian, 70.1% (95% CI 66.1% to 74.1%); the interval of plain overlaps it.",
    ]
    assert _summary(fields)[0].startswith("reward model orders 74.2% (95% CI")


def test_a_reward_model_without_numbers_is_not_praised(fields: dict[str, Any]) -> None:
    bare = {"accuracy": 0.5, "ece": None, "n": 4}
    assert _summary(fields | {"reward_models": {"one": bare}}) == [
        "one orders 50.0% of 4 held-out pairs as people did."
    ]
    unmeasured = bare | {"accuracy": float("nan")}
    said = _summary(fields | {"reward_models": {"one": unmeasured}})
    assert said == ["No policy was evaluated in this run."]
