"""Which policy to take: the best where it is clear, the least expensive of equals, none where none is better."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_plugins.report.recommendation import answer, taken
from rlhf_plugins.report.schema import Report

BARELY = {"mean": 0.01, "low": -0.01, "high": 0.03}


def _report(fields: dict[str, Any], rest: dict[str, Any] | None = None, **changes: dict[str, Any]) -> Report:
    policies = {name: policy | changes.get(name, {}) for name, policy in fields["policies"].items()}
    return Report.model_validate(fields | {"policies": policies} | (rest or {}))


def test_the_best_is_taken_where_it_is_clear(fields: dict[str, Any]) -> None:
    report = _report(fields)
    assert answer(report).startswith("dpo, ipo or ppo? Take ppo: +0.030 (95% CI 0.020 to 0.040) over dpo. ")
    assert taken(report) == "ppo"
    equal = {"behind": {"mean": 0.0, "low": 0.0, "high": 0.0}, "gain": BARELY}
    assert answer(_report(fields, dpo=equal, ipo={"gain": BARELY})).startswith(
        "dpo, ipo or ppo? Take ppo; dpo scores the same. "
    )


def test_the_best_is_that_with_the_highest_score_in_whatever_order(fields: dict[str, Any]) -> None:
    behind = {"mean": 0.1, "low": 0.05, "high": 0.15}
    best = {"gold": {"mean": 0.8, "low": 0.78, "high": 0.82}, "behind": None}
    report = _report(fields, dpo=best, ipo={"behind": {**behind, "mean": 0.2}}, ppo={"behind": behind})
    assert answer(report).startswith("dpo, ipo or ppo? Take dpo: +0.100 (95% CI 0.050 to 0.150) over ppo. ")
    assert taken(report) == "dpo"


@pytest.mark.parametrize(
    ("seconds", "name", "why"),
    [
        (72.8, "dpo", "costs least (1 min 13 s of training)"),
        (130.0, "ppo", "costs least (2 min 8 s of training)"),
        (None, "ppo", "is nearest to the reference (KL 5.00)"),
    ],
)
def test_of_equals_the_least_expensive_is_taken(fields: dict[str, Any], seconds: Any, name: str, why: str) -> None:
    report = _report(
        fields, dpo={"behind": {"mean": 0.01, "low": 0.0, "high": 0.02}, "seconds": seconds}, ppo={"kl": 5}
    )
    assert f"dpo and ppo cannot be distinguished here; {name} {why}: take it." in answer(report)
    assert taken(report) == name


def test_none_is_taken_where_none_is_better(fields: dict[str, Any]) -> None:
    report = _report(fields, **{name: {"gain": BARELY} for name in ("dpo", "ipo", "ppo")})
    assert answer(report) == (
        "dpo, ipo or ppo? None is shown to be better than its start on 256 prompts: keep the start."
    )
    assert taken(report) is None


@pytest.mark.parametrize(("alike", "named"), [(("ppo",), "ppo"), (("dpo", "ppo"), "dpo and ppo")])
def test_what_can_hardly_be_distinguished_from_the_reference_is_not_taken(
    fields: dict[str, Any], alike: tuple[str, ...], named: str
) -> None:
    changes = {name: {"kl": 0.099} if name in alike else {"gain": BARELY} for name in ("dpo", "ipo", "ppo")}
    report = _report(fields, **changes)
    assert taken(report) is None
    assert answer(report) == (
        f"dpo, ipo or ppo? Keep sft: at a KL below 0.1 nats, {named} can hardly be distinguished from it, whatever the "
        "scores say."
    )


def test_another_policy_is_taken_beside_one_that_hardly_differs(fields: dict[str, Any]) -> None:
    assert taken(_report(fields, ppo={"kl": 0.099}, ipo={"gain": BARELY})) == "dpo"
    assert taken(_report(fields, ppo={"kl": 0.1})) == "ppo"
    assert taken(_report(fields, ppo={"kl": None})) == "ppo"


def test_none_is_taken_on_very_few_prompts(fields: dict[str, Any]) -> None:
    report = _report(fields, **{name: {"n": n} for name, n in (("dpo", 9), ("ipo", 4), ("ppo", 5))})
    assert answer(report) == "dpo, ipo or ppo? They cannot be judged on 4 prompts."
    assert taken(report) is None


def test_none_is_taken_on_the_word_of_a_judge_that_may_be_guessing(fields: dict[str, Any]) -> None:
    model = fields["reward_model"] | {"accuracy_interval": {"mean": 0.5, "low": 0.4, "high": 0.6}, "accuracy": 0.5}
    report = _report(fields, {"judge": {"kind": "reward model"}, "reward_model": model})
    assert answer(report).startswith("dpo, ipo or ppo? This run cannot say: its judge cannot be trusted, since it")
    assert taken(report) is None


def test_the_distance_to_another_policy_than_the_leader_is_not_that_to_the_leader(fields: dict[str, Any]) -> None:
    clear = {"mean": 0.2, "low": 0.1, "high": 0.3}  # behind a policy that was not better than its own start
    report = _report(fields, ppo={"behind": clear}, dpo={"behind": clear})
    assert "dpo and ppo cannot be distinguished here" in answer(report)  # 0.66 to 0.70 and 0.69 to 0.73
    apart = _report(
        fields, ppo={"behind": clear}, dpo={"behind": clear, "gold": {"mean": 0.5, "low": 0.4, "high": 0.6}}
    )
    assert "Take ppo. " in answer(apart)
