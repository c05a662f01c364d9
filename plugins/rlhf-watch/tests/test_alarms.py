"""Alarms: run lengths against the textbook, statistics by hand, thresholds that keep their rate, monitors on steps."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rlhf_watch.alarms import calibration
from rlhf_watch.alarms.departures import Cusum, Gap, Level, Regression
from rlhf_watch.alarms.limits import SHIPPED, Limits, read_limits
from rlhf_watch.alarms.thresholds import joint_thresholds
from run_lengths import alarm_probability, average_run_length

from rlhf_plugins import (
    Alarm,
    DataError,
    PluginError,
    Prediction,
    RewardUnavailable,
    RunError,
    Samples,
    Step,
    component,
)


@pytest.mark.parametrize(
    ("threshold", "shift", "length"), [(4, 0.0, 168), (5, 0.0, 465), (4, 1.0, 8.38), (5, 1.0, 10.4)]
)
def test_run_lengths_are_those_of_the_textbook(threshold: float, shift: float, length: float) -> None:
    assert average_run_length(0.5, threshold, shift) == pytest.approx(length, rel=0.01)  # Montgomery, table 9.3


def test_a_cusum_alarms_as_often_as_the_textbook_says() -> None:
    """Of 4000 runs within 60 steps without a shift, and after how many of a shift by one deviation."""
    rng = np.random.default_rng(0)

    def alarms_at(shift: float, steps: int) -> float:
        cusum = Cusum(0.5)
        return next((at for at in range(1, steps + 1) if cusum.add(rng.normal() + shift) > 4), math.inf)

    share = float(np.mean([alarms_at(0.0, 60) <= 60 for _ in range(4000)]))
    assert share == pytest.approx(alarm_probability(0.5, 4, 60), abs=0.017)  # three standard errors
    lengths = [alarms_at(1.0, 1000) for _ in range(4000)]
    expected = average_run_length(0.5, 4, 1.0, sides=1)
    assert np.mean(lengths) == pytest.approx(expected, abs=3 * np.std(lengths) / math.sqrt(4000))
    assert average_run_length(0.5, 4, sides=1) == pytest.approx(2 * average_run_length(0.5, 4))


PAIRS = [(0.0, 0.0), (1.0, 1.0), (2.0, 2.0), (0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]  # of reward and worth


def test_statistics_by_hand() -> None:
    cusum = Cusum(0.5)
    assert [cusum.add(z) for z in (1.0, 2.0, -1.0, -3.0, 100.0)] == [0.5, 2.0, 0.5, 0.0, 7.5]
    level = Level(-1.0, warm_up=2, weight=0.5)
    assert [level.add(value) for value in (1.0, 3.0, 2.0)] == [0.0, 0.0, 0.0]
    assert level.add(1.0) == pytest.approx(0.5 * math.log(2.001 / 1.001))
    assert level.add(math.nan) == level.value == level.add(math.inf)
    assert level.add(1.0) == pytest.approx(0.75 * math.log(2.001 / 1.001))
    below = Level(1.0, warm_up=1, weight=0.5)  # what is below 0 counts as 0
    assert [below.add(value) for value in (-5.0, -1.0, 1.0)] == [0.0, 0.0, pytest.approx(0.5 * math.log(1.001 / 0.001))]
    fit = Regression.of(PAIRS)
    assert (fit.slope, fit.spread, fit.predict(3)) == (1, 0.5, 3.5)
    assert fit.error(1) == pytest.approx(0.5 / math.sqrt(6))
    assert fit.error(3) == pytest.approx(0.5 * math.sqrt((1 + 4 / (2 / 3)) / 6))


def test_the_gap_by_hand() -> None:
    """Four at reward 3 that are worth 0.9, not 3.5, less three standard errors: twice that over 0.5, less the slack."""
    gap = Gap(6)
    assert gap.add(*zip(*PAIRS[:5], (math.nan, 1.0), strict=True)) == 0.0
    assert (gap.wanted, gap.fit) == (1, None)
    again = Gap(6)
    again.load_state_dict(gap.state_dict())
    for one in (gap, again):
        one.add(*zip(*PAIRS[5:], strict=True))
        assert (one.wanted, one.fit) == (0, Regression.of(PAIRS))
        expected = (3.5 - 0.9 - 3 * 0.5 * math.sqrt(7 / 6)) * 2 / 0.5 - 0.25
        assert one.add([3.0] * 5, [0.9] * 4 + [math.nan]) == pytest.approx(expected)
        assert one.add([math.nan], [1.0]) == one.value == pytest.approx(expected)


def test_the_gap_grows_where_worth_lags_behind_the_reward_alone() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=512)
    follows, lags = Gap(512), Gap(512)
    for gap in (follows, lags):
        gap.add(first.tolist(), (0.7 * first + 0.7 * rng.normal(size=512)).tolist())
    for step in range(100):
        rewards = rng.normal(step / 40, 1, 8)
        worths = 0.7 * rewards + 0.7 * rng.normal(size=8)
        follows.add(rewards.tolist(), worths.tolist())
        lags.add(rewards.tolist(), (worths - 0.01 * step).tolist())
    assert follows.value < 5 < 20 < lags.value
    again = Gap(512)
    again.load_state_dict(json.loads(json.dumps(lags.state_dict())))
    assert again.add([9.0], [0.0]) == lags.add([9.0], [0.0])


@pytest.mark.slow
def test_thresholds_keep_the_joint_rate_of_dependent_statistics() -> None:
    rng = np.random.default_rng(0)
    shared = rng.exponential(size=(400, 300, 1)) * rng.exponential(size=(400, 300, 3)) * [1, 10, 100]
    rates = []
    for runs in shared:
        clean = {str(i): runs[:200, i] for i in range(3)}
        limits = np.array(list(joint_thresholds(clean, 0.05).values()))
        rates.append((runs[200:] > limits).any(1).mean())
    assert np.mean(rates) == pytest.approx(0.05, abs=0.006)


def test_thresholds_keep_the_rate_with_the_fewest_runs_that_may_promise_it() -> None:
    """9 clean runs and a rate of 10%; 1,500 trials deviate by 0.8 points."""
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(1500):
        runs = rng.lognormal(size=(29, 8))
        limits = np.array(list(joint_thresholds({str(i): runs[:9, i] for i in range(8)}, 0.1).values()))
        alarms.append((runs[9:] > limits).any(1).mean())
    assert np.mean(alarms) == pytest.approx(0.09, abs=0.02)


def test_too_few_clean_runs_promise_nothing() -> None:
    with pytest.raises(DataError, match=r"20 clean runs can promise a rate of 0.0476, not 0.01"):
        joint_thresholds({"a": [1.0] * 20}, 0.01)
    for clean in ([1.0], [1.0, 3.0]):
        with pytest.raises(DataError, match="compared with the others, which differ: give three or more"):
            joint_thresholds({"a": clean}, 0.5)
    with pytest.raises(DataError, match="not a finite number of at least 0"):
        joint_thresholds({"a": [1.0, math.nan]}, 0.5)


def test_a_threshold_by_hand() -> None:
    """Of log(1 + M) = 0, 1, 3 with a mean of 4/3; beside the others each is at -2, (1 - 1.5) / 1.5 and 5 deviations."""
    clean = {"a": [0.0, math.e - 1, math.e**3 - 1]}
    expected = math.expm1(4 / 3 - math.sqrt(14 / 9) / 3)
    assert joint_thresholds(clean, 0.5) == {"a": pytest.approx(expected)}
    both = joint_thresholds({**clean, "b": clean["a"][::-1]}, 0.5)  # the largest of each run are 5, -1/3 and 5
    assert both == dict.fromkeys("ab", pytest.approx(math.expm1(4 / 3 + 5 * math.sqrt(14 / 9))))


def run(logged: list[Any], seed: int = 0, base: str = "elsewhere", name: str = "watched") -> Any:
    """A run that names one monitor, keeps what is logged, and whose gold reward is 0."""
    data = SimpleNamespace(gold=lambda prompt, response: {"total": 0.0})
    return SimpleNamespace(
        spec=lambda one: {"use": name},
        log=lambda step, values: logged.append((step, values)),
        seed=seed,
        data=data,
        base=SimpleNamespace(path=base),
    )


def step(number: int, texts: list[str], **numbers: list[float]) -> Step:
    prompts = [f"p{i}" for i in range(len(texts))]
    ids = [[0]] * len(texts)
    members = torch.tensor(numbers.pop("members")) if "members" in numbers else None
    prediction = Prediction(torch.zeros(len(texts)), members=members, features=members)
    return Step("online", number, None, {}, Samples(prompts, texts, ids, ids), prediction, responses=numbers)


def limits(folder: Path, threshold: float, options: dict[str, Any], rollouts: int = 100) -> str:
    file = folder / "thresholds.json"
    Limits(0.01, 300, rollouts, {"watched": {"threshold": threshold, "options": options}}).write(file)
    return str(file)


GOOD = ["one two three four five six", "a b c d e f", "g h i j k l", "m n o p q r"]
BAD = ["so so so so so so"] * 4
CASES = {
    "length_drift": (step(0, GOOD, tokens=[6.0] * 4), step(0, GOOD, tokens=[60.0, 6.0, 90.0, 60.0])),
    "repetition": (step(0, GOOD), step(0, BAD)),
    "boilerplate": (step(0, GOOD), step(0, BAD)),
    "entropy_collapse": (step(0, GOOD, entropy=[2.0] * 4), step(0, GOOD, entropy=[0.1] * 4)),
    "reward_variance_collapse": (step(0, GOOD, reward=[1.0, 2.0] * 2), step(0, GOOD, reward=[1.0, 1.001] * 2)),
    "disagreement": (step(0, GOOD, members=[[0.0, 0.1]] * 4), step(0, GOOD, members=[[0.0, 5.0]] * 4)),
    "feature_drift": (step(0, GOOD, members=[[0.0], [0.2]] * 2), step(0, GOOD, members=[[9.0], [9.2]] * 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_monitor_is_silent_on_clean_rollouts_and_alarms_once_with_its_rate(name: str, tmp_path: Path) -> None:
    logged: list[Any] = []
    options = {"warm_up": 2, **({"phrases": ["i cannot"]} if name == "boilerplate" else {})}
    made = component("monitor", name, **options, thresholds=limits(tmp_path, 0.5, options)).build(run(logged))
    good, bad = CASES[name]
    assert [made(good) for _ in range(6)] == [None] * 6
    alarms = [found for _ in range(30) if (found := made(bad)) is not None]
    assert [alarm.false_alarm_rate for alarm in alarms] == [0.01]
    assert alarms[0].action is None
    assert "1.0% at most" in alarms[0].message
    assert logged[-1][1]["watch/watched"] > 0.5


@pytest.mark.parametrize("name", CASES)
def test_a_monitor_goes_on_where_it_was(name: str) -> None:
    logged: list[Any] = []
    first, second = (component("monitor", name, warm_up=2).build(run(logged)) for _ in range(2))
    good, bad = CASES[name]
    for one in [good] * 4 + [bad] * 3:
        first(one)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for made in (first, second):
        made(bad)
    assert logged[-1] == logged[-2]


def test_without_thresholds_a_monitor_only_measures() -> None:
    logged: list[Any] = []
    made = component("monitor", "length_drift", warm_up=2).build(run(logged))
    good, bad = CASES["length_drift"]
    assert not any(made(one) for one in [good] * 3 + [bad] * 50)
    assert logged[-1][1]["watch/watched"] > 2
    worst = component("monitor", "length_drift").worst(bad)
    assert worst[0] == 2


def test_a_reward_that_predicts_nothing_promises_nothing(tmp_path: Path) -> None:
    options = {"each": 4, "first": 16}
    made = component("monitor", "reward_gap", **options, thresholds=limits(tmp_path, 1, options)).build(run([]))
    rewards = [np.random.default_rng(number).normal(number, 1, 4).tolist() for number in range(40)]
    assert not any(made(step(number, GOOD, reward=four)) for number, four in enumerate(rewards))  # the gold is 0


def worth(prompt: str, response: str) -> dict[str, float]:
    return {"total": min(float(response), 2.0)}


def audited(number: int) -> Step:
    """Four responses whose true worth is their reward, as far as 2."""
    rewards = np.random.default_rng(number).normal(number / 10, 0.5, 4).tolist()
    return step(number, [str(reward) for reward in rewards], reward=rewards)


def test_an_alarm_of_the_audit_says_since_when_and_acts(tmp_path: Path) -> None:
    options = {"each": 4, "first": 16}
    file = limits(tmp_path, 10, options)
    here = run([])
    here.data.gold = worth
    made = component("monitor", "reward_gap", **options, thresholds=file, action="scale_lr", factor=0.1).build(here)
    alarms = {number: found for number in range(40) if isinstance(found := made(audited(number)), Alarm)}
    (at,) = alarms
    assert 12 <= at <= 30
    assert (alarms[at].action, alarms[at].factor, alarms[at].false_alarm_rate) == ("scale_lr", 0.1, 0.01)
    assert 10 <= alarms[at].evidence["since"] <= at
    rewards = [row["reward"] for row in alarms[at].evidence["responses"]]
    assert rewards == sorted(rewards, reverse=True)


def test_the_first_rollouts_are_audited_until_the_regression_has_its_responses_and_later_ones_in_part(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of eight responses one has no reward: 7, 7 and the 2 that lack of 16; then two of each rollout."""
    here, seen = run(logged := []), list[str]()

    def gold(prompt: str, response: str) -> dict[str, float]:
        if response == "down":
            raise RewardUnavailable("no answer")
        seen.append(response)
        return {"total": float(response)}

    here.data.gold = gold
    made, audited = component("monitor", "reward_gap", each=2, first=16).build(here), []
    rewards = [*map(float, range(7)), math.nan]
    whole = step(0, [*map(str, rewards)], reward=rewards)
    nothing = [replace(whole, samples=None), step(0, ["1"], reward=[math.nan]), step(0, ["down"], reward=[1.0])]
    for number, one in enumerate([whole, *nothing, whole, whole, whole]):
        seen.clear()
        assert made(replace(one, step=number)) is None
        audited.append(len(seen))
    assert audited == [7, 0, 0, 0, 7, 2, 2]
    assert [number for number, _ in logged] == [5, 6]
    assert "step 3: nothing was audited" in caplog.text


def test_an_uncalibrated_alarm_may_not_act() -> None:
    with pytest.raises(PluginError, match="false-alarm rate is known: give `thresholds`"):
        component("monitor", "reward_gap", action="stop")


@pytest.mark.parametrize("options", [{"action": "scale_kl"}, {"action": "stop", "factor": 2.0}, {"factor": 0.5}])
def test_an_action_that_changes_nothing_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(PluginError, match="factor: goes with `action: scale_lr` or `scale_kl`"):
        component("monitor", "reward_gap", thresholds="sandbox", **options)


def test_thresholds_of_other_options_or_longer_runs_are_not_trusted(tmp_path: Path) -> None:
    file = limits(tmp_path, 0.5, {"warm_up": 5}, rollouts=3)
    with pytest.raises(RunError, match="calibrated with warm_up 5, not 2"):
        component("monitor", "length_drift", warm_up=2, thresholds=file).build(run([]))
    with pytest.raises(RunError, match="no threshold for another .known: watched"):
        component("monitor", "length_drift", warm_up=5, thresholds=file).build(run([], name="another"))
    (wrong := tmp_path / "wrong.json").write_text("{}")
    with pytest.raises(RunError, match="wrong.json: no thresholds that `rlhf watch calibrate` wrote"):
        component("monitor", "length_drift", thresholds=str(wrong)).build(run([]))
    made = component("monitor", "length_drift", warm_up=5, thresholds=file).build(run([]))
    good, bad = CASES["length_drift"]
    (alarm,) = [found for one in [good] * 6 + [bad] * 9 if (found := made(one))]
    assert alarm.false_alarm_rate is None
    assert "nothing is known of longer ones" in alarm.message


def test_in_the_sandbox_the_shipped_thresholds_alarm_with_their_rate() -> None:
    shipped = read_limits(str(SHIPPED))
    assert set(shipped.monitors) == {*CASES, "reward_gap"}
    assert [*shipped.fitted] == ["recipe", "seeds", "script", "machine"]
    here = run([], base="/x/rlhf_plugins/sandbox/policy", name="length_drift")
    made, (good, bad) = component("monitor", "length_drift").build(here), CASES["length_drift"]
    (alarm,) = [found for one in [good] * 11 + [bad] * 20 if (found := made(one))]
    assert alarm.false_alarm_rate == shipped.rate
    assert f"of clean runs of clean_sandbox.yaml {shipped.rate:.1%} at most" in alarm.message


def test_elsewhere_the_shipped_thresholds_are_refused_or_left_out(caplog: pytest.LogCaptureFixture) -> None:
    here = run([], name="length_drift")
    with pytest.raises(RunError, match="shipped for length_drift are of `base: sandbox`"):
        component("monitor", "length_drift", thresholds="sandbox").build(here)
    component("monitor", "length_drift").build(here)
    other = run([], base="/x/rlhf_plugins/sandbox/policy", name="length_drift")
    component("monitor", "length_drift", warm_up=3).build(other)
    assert ["only measures" in line for line in caplog.messages] == [True, True]
    assert "calibrated with warm_up 10, not 3" in caplog.messages[1]


def test_a_monitor_with_other_options_in_another_stage_is_not_calibrated() -> None:
    stages = [{"monitors": [{"use": "length_drift", "warm_up": warm_up}]} for warm_up in (5, 10)]
    record: Any = SimpleNamespace(folder="runs/a", recipe={"stages": stages})
    with pytest.raises(RunError, match="runs/a: stages give length_drift other options"):
        calibration._options(record)


def test_a_monitor_that_starts_late_is_not_trusted_beyond_its_own_rollouts(tmp_path: Path) -> None:
    """Of the calibrated runs' 40 rollouts the statistic had 4 alone."""
    options, file = {"warm_up": 2}, tmp_path / "thresholds.json"
    Limits(0.01, 300, 40, {"watched": {"threshold": 0.5, "options": options, "rollouts": 4}}).write(file)
    made = component("monitor", "length_drift", **options, thresholds=str(file)).build(run([]))
    good, bad = CASES["length_drift"]
    (alarm,) = [found for one in [good] * 4 + [bad] * 9 if (found := made(one))]
    assert alarm.false_alarm_rate is None
    assert "runs with 4 rollouts, and nothing is known of longer ones" in alarm.message


def test_the_rollouts_of_a_monitor_are_those_of_its_longest_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"stage": stage, "step": at, "watch/length_drift": 1.0} for stage, n in (("a", 3), ("b", 5)) for at in range(n)
    ]
    rows += [{"stage": "b", "step": 4, "watch/reward_gap": 2.0}]
    record: Any = SimpleNamespace(folder="r", status="finished", recipe={"stages": []}, metrics=lambda: rows)
    monkeypatch.setattr(calibration, "open_run", lambda folder: record)
    monkeypatch.setattr(calibration, "_runs", lambda folders: folders)
    found = calibration.calibrate([Path("r")] * 3, 0.5)
    assert {name: one["rollouts"] for name, one in found.monitors.items()} == {"length_drift": 5, "reward_gap": 1}
    assert found.rollouts == 5


@pytest.mark.parametrize("name", ["feature_drift", "disagreement"])
def test_a_response_without_a_finite_number_makes_no_monitor_blind(name: str) -> None:
    logged: list[Any] = []
    made = component("monitor", name, warm_up=2).build(run(logged))
    for one in [CASES[name][0]] * 4 + [CASES[name][1]] * 6:
        assert one.prediction is not None
        assert one.prediction.members is not None
        members = one.prediction.members.clone()
        members[0] = math.nan
        made(replace(one, prediction=replace(one.prediction, members=members, features=members)))
    assert logged[-1][1]["watch/watched"] > 0.5
