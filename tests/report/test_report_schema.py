"""The shape of report.json: required names, numbers that are not numbers, and what is refused."""

from __future__ import annotations

import json
from math import inf, log, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rlhf_plugins.report.schema import Ceiling, Interval, Report


def test_json_has_the_promised_names(report: Report) -> None:
    stored = json.loads(report.model_dump_json())
    promised = {"gold", "normalised", "kl", "win_rate", "length", "seconds", "peak_bytes"}
    assert promised <= set(stored["policies"]["dpo"])
    assert set(stored["policies"]["dpo"]["win_rate"]) == {"mean", "low", "high"}
    assert stored["reward_model"]["accuracy"] == 0.742
    assert stored["started"] == "2025-06-01T09:30:00Z"


@given(st.floats())
def test_json_is_standard_whatever_the_float(mean: float) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    interval = Interval(mean=mean, low=nan, high=inf)
    stored = json.loads(interval.model_dump_json(), parse_constant=refuse)
    assert stored["low"] is stored["high"] is None
    assert Interval.model_validate(stored) == interval


def test_numpy_nan_and_nan_in_a_recipe_become_null(fields: dict[str, Any]) -> None:
    fields["policies"]["dpo"]["kl"] = np.float32(nan)
    fields["recipe"]["beta"] = nan
    stored = json.loads(Report.model_validate(fields).model_dump_json())
    assert stored["policies"]["dpo"]["kl"] is None
    assert stored["recipe"]["beta"] is None


def test_kl_of_best_of_n_is_log_n_less_its_share() -> None:
    assert Ceiling(n=1, gold=0.5).kl == 0
    assert Ceiling(n=4, gold=0.5).kl == pytest.approx(log(4) - 0.75)
    assert Ceiling(n=64, gold=0.5).kl == pytest.approx(4.158883 - 0.984375)


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("policies", "dpo", "glod"), 1.0, "Extra inputs"),
        (("policies", "dpo", "gold"), {"mean": 1.0, "low": 2.0, "high": 1.0}, "low 2.0 is above high 1.0"),
        (("policies", "dpo", "length"), "long", "valid number"),
        (("policies", "dpo", "n"), -1, "greater than or equal to 0"),
        (("policies", "dpo", "kl"), "nan?", "valid number"),
        (("reference",), "stf", r"not a policy \(known: sft, best_of_16"),
        (("started",), "2025-06-01T09:30:00", "timezone"),
        (("status",), "done", "'finished', 'interrupted', 'failed' or 'running'"),
        (("stages",), [{"name": "a\x00b", "stage": "sft"}], "match pattern"),
        (("ceiling",), {"n": 0, "gold": 1.0}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_field_is_refused(fields: dict[str, Any], where: tuple[str, ...], value: Any, said: str) -> None:
    *path, last = where
    holder = fields
    for key in path:
        holder = holder[key]
    holder[last] = value
    with pytest.raises(ValidationError, match=said):
        Report.model_validate(fields)


def test_measured_reward_models_come_before_the_one_that_judged(rewards: Report, report: Report) -> None:
    assert list(rewards.measured_reward_models) == ["plain", "gaussian"]
    assert report.measured_reward_models == {"reward model": report.reward_model}
    both = report.model_copy(update={"reward_models": rewards.reward_models})
    assert list(both.measured_reward_models) == ["plain", "gaussian"]


def test_a_reward_model_out_of_distribution_is_read_back(rewards: Report) -> None:
    again = Report.model_validate_json(rewards.model_dump_json())
    assert again == rewards
    assert again.reward_models["gaussian"].out_of_distribution is not None
    assert again.reward_models["gaussian"].out_of_distribution.accuracy == 0.65


def test_a_report_of_a_later_format_is_refused(report: Report) -> None:
    stored = report.model_dump_json()
    assert json.loads(stored)["format"] == 2
    with pytest.raises(ValidationError, match="it has format 3, and this version reads 2: upgrade"):
        Report.model_validate_json(stored.replace('"format":2', '"format":3'))
