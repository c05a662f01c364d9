"""Means over seeds with Student's interval, worked by hand; who is better is decided by it."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from rlhf_plugins.report.over_seeds import over_seeds, rows, sentences
from rlhf_plugins.report.schema import Interval, Report
from rlhf_plugins.report.seeds_table import accuracy_table, seeds_table


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


def _changed(report: Report, **changes: Any) -> Report:
    """With these fields of its policies; None leaves the policy out."""
    kept = {name: policy for name, policy in report.policies.items() if changes.get(name, {}) is not None}
    own = {name: policy.model_copy(update=changes.get(name, {})) for name, policy in kept.items()}
    return report.model_copy(update={"policies": own})


def _printed(table: Any) -> list[str]:
    console = Console(width=80, file=StringIO())
    console.print(table)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def _around(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}


def test_students_interval_by_hand() -> None:
    found = over_seeds([1.0, 2.0, 3.0])  # the standard error is 1/sqrt(3), t with 2 degrees of freedom 4.303
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, -0.4841, 4.4841), abs=1e-4)
    two = over_seeds([1.0, 3.0])  # the standard error is 1, t with 1 degree of freedom 12.706
    assert (two.mean, two.low, two.high) == pytest.approx((2.0, -10.706, 14.706), abs=1e-3)
    for alone in (over_seeds([1.5]), over_seeds([1.5, 1.5])):
        assert (alone.mean, alone.low, alone.high) == (1.5, None, None)


def test_a_row_counts_seeds_and_those_that_are_better_by_themselves(fields: dict[str, Any]) -> None:
    _, row = rows({"": _reports(fields, dpo=[0.2, 0.3, 0.04])})
    assert (row.policy, row.seeds, row.better) == ("dpo", 3, 2)
    assert row.gain is not None
    assert row.gain.mean == pytest.approx(0.18)
    assert row.kl is not None
    assert row.kl.mean == 2.0


def test_a_row_is_of_the_seeds_that_have_a_number(fields: dict[str, Any]) -> None:
    first, second, third = _reports(fields, dpo=[0.2, 0.3, 0.1], ipo=[0.1, 0.1, 0.1])
    none, to_start = Interval(mean=None, low=None, high=None), Interval(mean=0.4, low=0.3, high=0.5)
    changes: list[Any] = [
        {"n": 100, "kl": 4.0},
        {"gold": none, "gain": none, "kl": None},
        {"start_gain": to_start},
        None,
    ]
    reports = [
        _changed(each, dpo=own, ipo={"gold": none})
        for each, own in zip((first, second, third, third), changes, strict=True)
    ]
    _, row = rows({"": reports})
    assert (row.policy, row.seeds, row.better, row.prompts) == ("dpo", 2, 2, 100)
    means = [one and one.mean for one in (row.score, row.gain, row.kl)]
    assert means == pytest.approx([(0.6 + 0.5) / 2, (0.2 + 0.4) / 2, (4 + 2) / 2])


def test_a_line_to_read_others_against_has_no_gain(fields: dict[str, Any]) -> None:
    (report, *_) = _reports(fields, dpo=[0.2] * 3, best=[0.3] * 3)
    _, _, row = rows({"": [report, _changed(report, best={"line": True, "kl": None}, dpo={"kl": None})]})
    assert (row.policy, row.seeds, row.gain, row.better) == ("best", 2, None, 0)
    unknown = _changed(report, best={"line": True, "kl": None})
    assert _printed(seeds_table({"": [unknown]}))[-1].split() == ["best", "1", "0.700", "-", "-", "-"]


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ([0.2], "+0.200 over its start in the mean of 1 seed; one training has no interval over seeds."),
        ([0.2, 0.2], "+0.200 over its start in the mean of 2 seeds; seeds that agree give no interval over seeds."),
        (
            [0.1, 0.3],
            "+0.200 (95% CI -1.071 to 1.471) over its start in the mean of 2 seeds, not shown to be better; two seeds "
            "give a very wide interval.",
        ),
        ([0.19, 0.2], "+0.195 (95% CI 0.131 to 0.259) over its start in the mean of 2 seeds, better."),
        ([-0.19, -0.2], "-0.195 (95% CI -0.259 to -0.131) over its start in the mean of 2 seeds, worse."),
    ],
)
def test_one_and_two_seeds(fields: dict[str, Any], gains: list[float], said: str) -> None:
    """Of two the half width is 12.706 times half their difference."""
    assert sentences({"": [_report(fields, {"dpo": gain}) for gain in gains]}) == [f"dpo: {said}"]


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
        "beta 3": _reports(fields, dpo=[0.1, 0.101, 0.102]),
        "beta 9": _reports(fields, dpo=[0.0, 0.01, -0.01]),
    }
    *_, last = sentences(groups)
    assert last == (
        "The highest gain over its start has dpo at beta 1; the interval of dpo at beta 0.1 overlaps its own."
    )


@pytest.mark.parametrize("setting", ["", "beta 0.05"])
def test_the_table_fits_80_columns(fields: dict[str, Any], setting: str) -> None:
    lines = _printed(seeds_table({setting: _reports(fields, dpo=[0.2, 0.21, 0.22])}))
    assert len(lines) == 2 + 2  # no row is broken
    assert max(map(len, lines)) <= 80
    assert lines[-1].endswith(" 0.210 [0.185,0.235] 2.00    3/3")
    assert lines[-2].split()[-2:] == ["0.00", "-"]


def test_reward_models_have_a_table_where_one_was_measured(rewards: Report, report: Report) -> None:
    models = rewards.reward_models
    other = models["plain"].model_copy(update={"accuracy": 0.722})
    few = rewards.model_copy(update={"reward_models": {"plain": other}})
    bare = rewards.model_copy(update={"reward_models": {"plain": other.model_copy(update={"accuracy": None})}})
    lines = _printed(accuracy_table({"": [rewards, few, bare], "beta 1": [bare]}))
    # 12.706 * 1 point from 73.2%
    assert [line.split() for line in lines[2:]] == [
        ["-", "plain", "2", "73.2%", "[60.5%,85.9%]"],
        ["-", "gaussian", "1", "70.1%"],
    ]
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
    mixed = {"beta 1": groups["beta 1"], "beta 3": _reports(fields, dpo=[0.2, 0.21, 0.22])}
    assert sentences(mixed)[2] == take


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
    reports = _reports(fields | {"policies": few}, dpo=[0.2, 0.21, 0.22], ipo=[0.1, 0.11, 0.12])
    groups = {"": [_changed(report, ipo={"n": 10}) for report in reports]}
    first, second, take = sentences(groups)
    assert first.endswith("in the mean of 3 seeds; it cannot be judged on 2 prompts.")
    assert second.endswith("in the mean of 3 seeds, better.")
    assert take == "The highest gain over its start has ipo."
    assert [row.better for row in rows(groups) if row.policy == "dpo"] == [0]
