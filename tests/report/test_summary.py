"""The summary follows from the numbers, and never claims more than they hold."""

from __future__ import annotations

from typing import Any

from rlhf_plugins.report import summary
from rlhf_plugins.report.schema import Interval, Report


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


def test_the_answer_comes_first_then_a_verdict_for_each_trained_policy(report: Report) -> None:
    assert summary(report) == [
        "dpo, ipo or ppo? Take ppo: +0.030 (95% CI 0.020 to 0.040) over dpo. "
        "Each was trained once: another seed may order them differently.",
        "dpo is better than sft: gold reward +0.230 (95% CI 0.205 to 0.255) on 256 prompts, "
        "at a KL to sft of 6.20 nats.",
        "ipo is better than sft: gold reward +0.190 (95% CI 0.165 to 0.215) on 256 prompts, "
        "at a KL to sft of 4.10 nats.",
        "ppo is better than sft: gold reward +0.260 (95% CI 0.235 to 0.285) on 256 prompts, "
        "at a KL to sft of 9.40 (9.10 to 9.70) nats.",
    ]


def test_one_trained_policy_is_its_verdict_and_best_of_n_is_never_the_headline(fields: dict[str, Any]) -> None:
    kept = {name: fields["policies"][name] for name in ("sft", "best_of_16", "dpo")}
    (said,) = summary(Report.model_validate(fields | {"policies": kept}))
    assert said.startswith("dpo is better than sft")


def test_one_policy_none_and_unmeasured(fields: dict[str, Any]) -> None:
    fields["reward_model"] = None
    assert _summary(fields) == ["No policy was evaluated in this run."]
    assert _summary(fields, sft=None) == ["No policy was evaluated in this run."]
    assert _summary(fields, ppo=(0.6, 0.1)) == [
        "Only ppo was evaluated: gold reward 0.600 (95% CI 0.500 to 0.700; n = 8: the interval is wide)."
    ]


def test_without_a_comparison_there_is_no_verdict(fields: dict[str, Any]) -> None:
    said = _summary(fields, sft=None, dpo=(0.5, 0.01), ppo=(0.6, 0.01))
    assert said == [
        "No trained policy was compared with its start: gold reward dpo 0.500 (95% CI 0.490 to 0.510; n = 8: the "
        "interval is wide), ppo 0.600 (95% CI 0.590 to 0.610; n = 8: the interval is wide)."
    ]


def test_reward_models_speak_where_no_policy_was_evaluated(rewards: Report, fields: dict[str, Any]) -> None:
    assert summary(rewards) == [
        "plain is the most accurate reward model: it orders 74.2% (95% CI 70.7% to 77.7%) of 560 held-out pairs as "
        "people did.",
        "Always preferring the longer response is right on 57.1%.",
        "Next is gaussian, 70.1% (95% CI 66.1% to 74.1%); the interval of plain overlaps it.",
    ]
    assert _summary(fields)[0].startswith("reward model orders 74.2% (95% CI")
    better = {"accuracy": 0.9, "accuracy_interval": Interval(mean=0.9, low=0.8, high=0.95)}
    for update, end in (
        (better, "; the interval of gaussian is clear of it."),
        (better | {"accuracy_interval": None}, "."),
    ):
        models = {**rewards.reward_models, "gaussian": rewards.reward_models["gaussian"].model_copy(update=update)}
        said = summary(rewards.model_copy(update={"reward_models": models}))
        assert said[0].startswith("gaussian is the most accurate reward model: it orders 90.0%")
        assert said[2] == f"Next is plain, 74.2% (95% CI 70.7% to 77.7%){end}"


def test_a_reward_model_without_numbers_is_not_praised(fields: dict[str, Any]) -> None:
    bare = {"accuracy": 0.5, "ece": None, "n": 4}
    assert _summary(fields | {"reward_models": {"one": bare}}) == [
        "one orders 50.0% of 4 held-out pairs as people did."
    ]
    unmeasured = bare | {"accuracy": float("nan")}
    said = _summary(fields | {"reward_models": {"one": unmeasured}})
    assert said == ["No policy was evaluated in this run."]
