"""Whether a trained policy is better than its start, in one sentence with what limits it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Literal

from rlhf_plugins.report.schema import EvaluationReport, Interval, PolicyReport, Report, RewardModelReport
from rlhf_plugins.report.settings import EVALUATE, chosen_on_the_same, otherwise
from rlhf_plugins.report.words import FEW, FEWEST, called, number, share

Word = Literal["better", "not shown", "worse", "hardly differs", "not judged", "judge not trusted"]
NEAR = 0.1  # nats a response below which two policies can hardly be distinguished
_LONGER, _BY_LENGTH = 1.5, 0.3  # times as long, and the correlation of scores with length, that together are suspect
_CUT = 0.05  # the share of cut responses above which the scores are those of beginnings
_SILENT = 0.2  # the share of comparisons without an answer above which the others are no fair sample
_MEASURED = ("tasks", "monitors", "metrics")  # options of a stage from which nothing is learned
_MOST = 100_000  # prompts that anybody would ask
_POWER = (1.959964 + 0.841621) / 1.959964  # as many deviations from 0, of those that an interval has, in 80% of repeats


@dataclass(frozen=True)
class Verdict:
    """What a run shows of one policy."""

    policy: str
    word: Word
    sentence: str
    caveats: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The sentence, with its caveats behind it."""
        return f"{self.sentence} But {'; '.join(self.caveats)}." if self.caveats else self.sentence


def verdicts(report: Report) -> dict[str, Verdict]:
    """One for each policy that was compared on the same prompts; reference lines, such as best-of-n, get none."""
    return {name: _verdict(report, name) for name in compared(report)}


def compared(report: Report | EvaluationReport) -> list[str]:
    """The policies that have a paired difference from another."""
    return [
        name
        for name, policy in report.policies.items()
        if not policy.line and name != report.reference and (gain := _gain(policy)) and gain.mean is not None
    ]


def faults(report: Report) -> list[str]:
    """Why the judge cannot be trusted; empty where nothing speaks against it."""
    model, judge = report.reward_model, report.judge
    if judge is None or judge.kind == "gold":
        return []
    silent = judge.failed or 0.0
    found = [f"it gave no usable answer to {share(silent)} of the comparisons"] if silent > _SILENT else []
    if model is None or judge.kind == "function":  # a function is the task itself
        return found
    return [*found, *_faults(model)]


def near(policy: PolicyReport) -> bool:
    """Whether its responses hardly differ from those of the policy that its KL is measured to."""
    return policy.kl is not None and policy.kl < NEAR


def over(value: Interval) -> str:
    """A difference with its sign and interval: `+0.260 (95% CI 0.235 to 0.285)`."""
    sign = "+" if (value.mean or 0.0) >= 0 else ""
    if value.low is None or value.high is None or value.low == value.high:
        return f"{sign}{number(value.mean)}"
    return f"{sign}{number(value.mean)} (95% CI {number(value.low)} to {number(value.high)})"


def _verdict(report: Report, name: str) -> Verdict:
    policy = report.policies[name]
    gain = _gain(policy)
    assert gain is not None
    start = _against(report, policy)
    numbers = f"{report.score_name} {over(gain)} on {policy.n} prompts{_at(report, policy)}"
    if wrong := faults(report):
        sentence = f"{name}: the judge cannot be trusted here, since {'; '.join(wrong)} ({numbers})."
        return Verdict(name, "judge not trusted", sentence, _caveats(report, name))
    word = shown(gain, policy.n)
    if word == "not judged":
        numbers = f"{report.score_name} {over(gain)} over {start}{_at(report, policy)}"
        sentence = f"{name} cannot be judged on {policy.n} prompts: {numbers}."
        return Verdict(name, word, sentence, _caveats(report, name))
    if near(policy) and policy.start_gain is None:  # whose start is what its KL is measured to
        sentence = f"{name} hardly differs from {start}: {numbers}."
        return Verdict(name, "hardly differs", sentence, _caveats(report, name))
    relation = {"better": "is better than", "worse": "is worse than"}.get(word, "is not shown to be better than")
    return Verdict(
        name, word, f"{name} {relation} {start}: {numbers}{_enough(word, gain, policy.n)}.", _caveats(report, name)
    )


def _gain(policy: PolicyReport) -> Interval | None:
    return policy.start_gain or policy.gain


def _against(report: Report, policy: PolicyReport) -> str:
    if policy.start_gain is not None and policy.start:
        return f"its start {policy.start}"
    return report.reference or "the reference"


def shown(gain: Interval, n: int) -> Word:
    """What a paired difference on n prompts shows; nothing on very few, or where all are equal and not 0."""
    if n < FEWEST or (gain.mean and gain.low is not None and gain.low == gain.high):
        return "not judged"
    if gain.low is not None and gain.low > 0:
        return "better"
    return "worse" if gain.high is not None and gain.high < 0 else "not shown"


def _at(report: Report, policy: PolicyReport) -> str:
    if policy.kl is None:
        return ", at an unknown KL"
    interval = policy.kl_interval
    known = interval is not None and interval.low is not None and interval.high is not None
    within = f" ({number(interval.low, 2)} to {number(interval.high, 2)})" if interval is not None and known else ""
    return f", at a KL to {report.reference or 'the reference'} of {number(policy.kl, 2)}{within} nats"


def _enough(word: Word, gain: Interval, n: int) -> str:
    """How many prompts would show a difference of this size with power 0.8: its interval shrinks with their root."""
    if word != "not shown" or not gain.mean or gain.low is None or gain.high is None:
        return ""
    half = gain.mean - gain.low if gain.mean > 0 else gain.high - gain.mean  # on the side of 0
    needed = ceil(n * (_POWER * max(half, 0.0) / gain.mean) ** 2)
    words = f"; a difference of this size would need about {needed:,} prompts to show in 80% of repeats"
    return words if n < needed <= _MOST else ""


def _caveats(report: Report, name: str) -> tuple[str, ...]:
    policy = report.policies[name]
    found = []
    if FEWEST <= policy.n < FEW:
        found.append(f"{policy.n} prompts are too few for a firm interval")
    gain = _gain(policy)
    if gain is not None and gain.low is not None and gain.low == gain.high:
        found.append("all differences are equal, so that the interval has no width, which is not certainty")
    if near(policy) and policy.start_gain is not None:
        found.append(f"at a KL near 0 its responses hardly differ from those of {report.reference or 'the reference'}")
    if policy.cut is not None and policy.cut > _CUT:
        found.append(f"{share(policy.cut)} of its responses were cut at max_new_tokens")
    if evaluations := [one for one in specs(report) if one.get("stage") == EVALUATE]:
        spec = _spec(report, _stage_of(report, name))
        found += filter(None, [otherwise(spec, evaluations[-1]), chosen_on_the_same(spec, evaluations[-1])])
    return (*found, *_of_judge(report, name))


def _of_judge(report: Report, name: str) -> Iterator[str]:
    judge = report.judge
    if judge is None or judge.kind == "gold":
        return
    if judge.kind == "loss":
        yield "nobody judged its responses, only the likelihood of held-out answers is known"
    if judge.stage:
        stage = next((one for one in report.stages if one.name == _stage_of(report, name)), None)
        if stage is not None and any(made.startswith(f"{judge.stage}.") for made in stage.opened):
            yield "it was trained against this judge, so that a higher score may be the judge's error"
        elif stage is not None and _rows(report, stage.name) == _rows(report, judge.stage):
            yield "the judge was trained on the same rows"
    if judge.kind == "function" and judge.name and _trained_on(_spec(report, _stage_of(report, name)), judge.name):
        yield "it was trained on the function that judges it, so that a higher score is what it was rewarded for"
    if judge.kind == "function" and report.reward_model is not None:
        yield from (f"the function is not people's taste: {fault}" for fault in _faults(report.reward_model))
    if judge.failed:
        yield f"the judge gave no usable answer to {share(judge.failed)} of the comparisons"
    if judge.kind in ("reward model", "pairs") and report.reward_model is None:
        yield "how often the judge is right was not measured"
    yield from _by_length(report, name)


def _by_length(report: Report, name: str) -> Iterator[str]:
    own = report.policies[name].length
    other = report.policies[report.reference].length if report.reference else None
    by = report.reward_model.length_correlation if report.reward_model else None
    if own and other and by is not None and own > _LONGER * other and by > _BY_LENGTH:
        times = f"its responses are {own / other:.1f} times as long"
        yield f"{times}, and the judge prefers length (correlation {number(by, 2)})"


def _stage_of(report: Report, policy: str) -> str:
    return report.policies[policy].stage or policy


def _rows(report: Report, stage: str) -> object:
    """A stage's own rows in the recipe's words; None for the recipe's."""
    return _spec(report, stage).get("data")


def specs(report: Report) -> list[Mapping[str, object]]:
    """The words of the recipe's stages, in order."""
    stages = report.recipe.get("stages")
    return [one for one in stages if isinstance(one, Mapping)] if isinstance(stages, list) else []


def _spec(report: Report, stage: str) -> Mapping[str, object]:
    return next((one for one in specs(report) if one.get("name") == stage), {})


def _trained_on(spec: object, name: str) -> bool:
    """Whether a component of this name and options is in the spec of a stage, but for what only measures or watches."""
    if isinstance(spec, Mapping):
        parts = (part for option, part in spec.items() if option not in _MEASURED)
        return called(spec) == name or any(_trained_on(part, name) for part in parts)
    return isinstance(spec, list) and any(_trained_on(part, name) for part in spec)


def _faults(model: RewardModelReport) -> Iterator[str]:
    interval, longer = model.accuracy_interval, model.longer_response_accuracy
    if model.accuracy is None:
        return
    if interval is not None and interval.low is not None and interval.low <= 0.5:
        yield (
            f"it orders {share(model.accuracy)} (95% CI {share(interval.low)} to {share(interval.high)}) of {model.n} "
            "held-out pairs as people did, which may be chance"
        )
    elif longer is not None and model.accuracy <= longer:
        yield f"it orders {share(model.accuracy)} of held-out pairs as people did, their length alone {share(longer)}"
