"""Reports of one recipe with several seeds or settings: means, intervals over the seeds, and what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from rlhf_plugins.report.schema import Interval, PolicyReport, Report
from rlhf_plugins.report.verdict import NEAR, faults, over, verdicts
from rlhf_plugins.report.words import FEWEST

Groups = Mapping[str, Sequence[Report]]  # by setting: the reports of its seeds


@dataclass(frozen=True)
class Row:
    """A policy of one setting, over the seeds."""

    setting: str
    policy: str
    seeds: int
    score: Interval
    gain: Interval | None  # over its start
    kl: Interval | None
    better: int  # seeds in which its verdict is that it is better than its start
    prompts: int = 0  # of the seed with the fewest
    faults: tuple[str, ...] = ()  # why the judge of one of the seeds cannot be trusted
    points: tuple[tuple[float | None, float], ...] = ()  # KL and score of each seed

    @property
    def near(self) -> bool:
        """Whether its responses hardly differ from the reference's, in the mean of the seeds."""
        return self.kl is not None and self.kl.mean is not None and self.kl.mean < NEAR

    @property
    def name(self) -> str:
        """Its name in a sentence."""
        return f"{self.policy} at {self.setting}" if self.setting else self.policy


def over_seeds(values: Sequence[float]) -> Interval:
    """The mean with Student's 95% interval over independent trainings; of one, or of equal ones, there is none."""
    if len(set(values)) < 2:
        return Interval(mean=values[0], low=None, high=None)
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / sqrt(len(values))
    mean = fmean(values)
    return Interval(mean=mean, low=mean - half, high=mean + half)


def rows(groups: Groups) -> list[Row]:
    """A row for each policy of each setting, in the order of the reports."""
    return [row for setting, reports in groups.items() for row in _rows(setting, reports)]


def accuracies(groups: Groups) -> Iterator[tuple[str, str, int, Interval]]:
    """Setting, reward model, seeds and accuracy on held-out pairs, of each that was measured."""
    for setting, reports in groups.items():
        for name in dict.fromkeys(name for report in reports for name in report.measured_reward_models):
            found = [report.measured_reward_models.get(name) for report in reports]
            values = [model.accuracy for model in found if model and model.accuracy is not None]
            if values:
                yield setting, name, len(values), over_seeds(values)


def sentences(groups: Groups) -> list[str]:
    """Which policy is better than its start over the seeds, and which of them to take."""
    return [*map(_sentence, _judged(groups)), *conclusion(groups)]


def conclusion(groups: Groups) -> list[str]:
    """Which policy to take, and what keeps settings from being compared; nothing to say of one row alone."""
    return [*_take(_judged(groups)), *_scales(groups)]


def _judged(groups: Groups) -> list[Row]:
    return [row for row in rows(groups) if row.gain is not None]


def _rows(setting: str, reports: Sequence[Report]) -> Iterator[Row]:
    for name in dict.fromkeys(name for report in reports for name in report.policies):
        policies = [report.policies[name] for report in reports if name in report.policies]
        scores = [policy.gold.mean for policy in policies if policy.gold.mean is not None]
        if not scores:
            continue
        line = any(policy.line for policy in policies)
        gains = [] if line else [gain for policy in policies if (gain := policy.start_gain or policy.gain)]
        wrong = tuple(dict.fromkeys(fault for report in reports for fault in faults(report)))
        means = [gain.mean for gain in gains if gain.mean is not None]
        yield Row(
            setting,
            name,
            len(scores),
            over_seeds(scores),
            over_seeds(means) if means else None,
            _kl(policies),
            0 if wrong or line else _times_better(name, reports),
            min(policy.n for policy in policies),
            wrong,
            tuple((policy.kl, policy.gold.mean) for policy in policies if policy.gold.mean is not None),
        )


def _times_better(name: str, reports: Sequence[Report]) -> int:
    found = [verdicts(report).get(name) for report in reports]
    return sum(verdict is not None and verdict.word == "better" for verdict in found)


def _kl(policies: Sequence[PolicyReport]) -> Interval | None:
    known = [policy.kl for policy in policies if policy.kl is not None]
    return over_seeds(known) if known else None


def _sentence(row: Row) -> str:
    assert row.gain is not None
    seeds = "1 seed" if row.seeds == 1 else f"{row.seeds} seeds"
    sentence = f"{row.name}: {over(row.gain)} over its start in the mean of {seeds}"
    if row.faults:
        return f"{sentence}; the judge cannot be trusted here, since {row.faults[0]}."
    if row.prompts < FEWEST:
        return f"{sentence}; it cannot be judged on {row.prompts} prompts."
    if row.near:
        return f"{sentence}; at a KL below {NEAR} nats it hardly differs from the reference."
    if row.gain.low is None or row.gain.high is None:
        alone = "one training has" if row.seeds == 1 else "seeds that agree give"
        return f"{sentence}; {alone} no interval over seeds."
    word = "better" if row.gain.low > 0 else "worse" if row.gain.high < 0 else "not shown to be better"
    few = "; two seeds give a very wide interval" if row.seeds == 2 and word == "not shown to be better" else ""
    return f"{sentence}, {word}{few}."


def _take(found: Sequence[Row]) -> list[str]:
    """The highest gain among those that are better over the seeds; nothing to say of one row alone."""
    if len(found) < 2:
        return []
    if any(row.faults for row in found):
        return ["Which to take cannot be said: the judge cannot be trusted."]
    judged = [row for row in found if row.prompts >= FEWEST and not row.near]
    better = [row for row in judged if row.gain and row.gain.low is not None and row.gain.low > 0]
    if not better:
        return ["None is shown to be better than its start over the seeds."]
    best = max(better, key=lambda row: row.gain.mean or 0.0 if row.gain else 0.0)
    overlap = [row.name for row in better if row is not best and _overlap(row.gain, best.gain)]
    near = f"; the interval of {', '.join(overlap)} overlaps its own" if overlap else ""
    return [f"The highest gain over its start has {best.name}{near}."]


def _scales(groups: Groups) -> list[str]:
    """A sentence where settings have no common scale, since each was judged by a reward that its own runs trained."""
    own = [any(report.judge and report.judge.stage for report in reports) for reports in groups.values()]
    if len(own) < 2 or not any(own) or _one_judge(groups):
        return []
    return ["Settings were judged by the reward models of their own runs: their scores are on different scales."]


def _one_judge(groups: Groups) -> bool:
    """Whether the reward models of each seed have the same weights in every setting."""
    found: dict[str, set[str]] = {}
    for report in (report for reports in groups.values() for report in reports):
        found.setdefault(str(report.recipe.get("seed")), set()).add(report.judge.digest if report.judge else "")
    return all(len(digests) == 1 and "" not in digests for digests in found.values())


def _overlap(one: Interval | None, other: Interval | None) -> bool:
    return one is not None and other is not None and (one.high or 0.0) >= (other.low or 0.0)
