"""Means over seeds with Student's interval, worked by hand; who is better is decided by it."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from rlhf_plugins.report.over_seeds import accuracy_table, over_seeds, rows, seeds_table, sentences
from rlhf_plugins.report.schema import Report


def _reports(fields: dict[str, Any], **gains: list[float]) -> list[Report]:
    """A report a seed, in which the policies gain this much over their start."""
    return [_report(fields, {name: several[place] for name, several in gains.items()}) for place in range(3)]


def _report(fields: dict[str, Any], gains: dict[str, float]) -> Report:
    reference = fields["policies"]["sft"]
    policies = {
        name: reference | {"gold": _around(0.4 + gain), "gain": _around(gain), "kl": 2.0}
        for name, gain in gains.items()
    }
    return Report.model_validate(fields | {"policies": {"sft": reference, **policies}})


def _around(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}


def test_students_interval_by_hand() -> None:
    found = over_seeds([1.0, 2.0, 3.0])  # the standard error is 1/sqrt(3), t with 2 degrees of freedom 4.303
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, -0.4841, 4.4841), abs=1e-4)
    for alone in (over_seeds([1.5]), over_seeds([1.5, 1.5])):
        assert (alone.mean, alone.low, alone.high) == (1.5, None, None)


def test_a_row_counts_seeds_and_those_that_are_better_by_themselves(fields: dict[str, Any]) -> None:
    _, row = rows({"": _reports(fields, dpo=[0.2, 0.3, 0.04])})
    assert (row.policy, row.seeds, row.better) == ("dpo", 3, 2)
    assert row.gain is not None
    assert row.gain.mean == pytest.approx(0.18)
    assert row.kl is not None
    assert row.kl.mean == 2.0


def test_what_is_better_over_the_seeds_is_said(fields: dict[str, Any]) -> None:
    found = sentences({"": _reports(fields, dpo=[0.2, 0.21, 0.22], ipo=[0.1, -0.1, 0.3])})
    assert found == [
        "dpo: +0.210 (95% CI 0.185 to 0.235) over its start in the mean of 3 seeds, better.",
        "ipo: +0.100 (95% CI -0.397 to 0.597) over its start in the mean of 3 seeds, not shown to be better.",
        "The highest gain over its start has dpo.",
    ]


def test_a_policy_at_a_kl_near_0_is_not_called_better(fields: dict[str, Any]) -> None:
    far = _reports(fields, dpo=[0.2, 0.21, 0.22], ipo=[0.1, 0.11, 0.12])
    near_too = [each.policies | {"dpo": each.policies["dpo"].model_copy(update={"kl": 0.05})} for each in far]
    reports = [each.model_copy(update={"policies": own}) for each, own in zip(far, near_too, strict=True)]
    assert next(row for row in rows({"": reports}) if row.policy == "dpo").better == 0
    near, _, take = sentences({"": reports})
    assert near.endswith("of 3 seeds; at a KL below 0.1 nats it hardly differs from the reference.")
    assert take == "The highest gain over its start has ipo."


def test_settings_are_compared_with_each_other(fields: dict[str, Any]) -> None:
    groups = {
        "beta 0.1": _reports(fields, dpo=[0.2, 0.21, 0.22]),
        "beta 1": _reports(fields, dpo=[0.22, 0.23, 0.24]),
        "beta 9": _reports(fields, dpo=[0.0, 0.01, -0.01]),
    }
    *_, last = sentences(groups)
    assert last == (
        "The highest gain over its start has dpo at beta 1; the interval of dpo at beta 0.1 overlaps its own."
    )


@pytest.mark.parametrize("setting", ["", "beta 0.05"])
def test_the_table_fits_80_columns(fields: dict[str, Any], setting: str) -> None:
    console = Console(width=80, file=StringIO())
    console.print(seeds_table({setting: _reports(fields, dpo=[0.2, 0.21, 0.22])}))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 2 + 2  # no row is broken
    assert max(map(len, lines)) <= 80
    assert "0.210 [0.185,0.235]" in lines[-1]


def test_reward_models_have_a_table_where_one_was_measured(rewards: Report, report: Report) -> None:
    table = accuracy_table({"": [rewards, rewards]})
    assert table is not None
    assert table.row_count == 2
    bare = report.model_copy(update={"reward_model": None})
    assert accuracy_table({"": [bare]}) is None


def test_a_judge_that_may_be_guessing_calls_nothing_better(fields: dict[str, Any]) -> None:
    model = fields["reward_model"] | {"accuracy_interval": {"mean": 0.5, "low": 0.4, "high": 0.6}, "accuracy": 0.5}
    guessing = fields | {"judge": {"kind": "reward model", "stage": "reward"}, "reward_model": model}
    groups = {"beta 1": _reports(guessing, dpo=[0.2, 0.21, 0.22]), "beta 2": _reports(guessing, dpo=[0.2, 0.21, 0.22])}
    first, _, take, scales = sentences(groups)
    assert "better" not in first
    assert "over its start in the mean of 3 seeds; the judge cannot be trusted here, since it orders" in first
    assert take == "Which to take cannot be said: the judge cannot be trusted."
    assert scales.startswith("Settings were judged by the reward models of their own runs")
    assert [row.better for row in rows(groups) if row.policy == "dpo"] == [0, 0]


def test_settings_with_the_same_judge_for_each_seed_are_on_one_scale(fields: dict[str, Any]) -> None:
    def judged(seed: int, digest: str) -> Report:
        judge = {"kind": "reward model", "stage": "reward", "digest": digest}
        return _report(fields | {"judge": judge, "recipe": {"seed": seed}}, {"dpo": 0.1})

    one = [judged(0, "a"), judged(1, "b")]
    scales = "Settings were judged by the reward models of their own runs: their scores are on different scales."
    assert scales not in sentences({"beta 1": one, "beta 2": one})
    assert sentences({"beta 1": one, "beta 2": [judged(0, "a"), judged(1, "c")]})[-1] == scales
    assert sentences({"beta 1": [judged(0, "")], "beta 2": [judged(0, "")]})[-1] == scales


def test_nothing_is_better_on_very_few_prompts(fields: dict[str, Any]) -> None:
    few = {name: policy | {"n": 2} for name, policy in fields["policies"].items()}
    groups = {"": _reports(fields | {"policies": few}, dpo=[0.2, 0.21, 0.22])}
    assert sentences(groups)[0].endswith("in the mean of 3 seeds; it cannot be judged on 2 prompts.")
    assert [row.better for row in rows(groups) if row.policy == "dpo"] == [0]
