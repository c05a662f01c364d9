"""Which policy won, by how much, and whether the run can tell; it turns a report into a few sentences."""

from __future__ import annotations

from rlhf_plugins.report.schema import Interval, Report
from rlhf_plugins.report.words import number


def ranked(report: Report) -> list[str]:
    """The measured policies, best mean first and the reference before its equals."""
    means = {name: policy.gold.mean for name, policy in report.policies.items()}
    measured = [name for name, mean in means.items() if mean is not None]
    return sorted(measured, key=lambda name: (-(means[name] or 0.0), name != report.reference))


def winner(report: Report) -> str | None:
    """The policy that the report calls best: the highest mean, if it is not the reference."""
    best = next(iter(ranked(report)), None)
    return None if best == report.reference else best


def summary(report: Report) -> list[str]:
    """Sentences, the verdict first; every number in them is a number of the table."""
    order = ranked(report)
    if not order:
        return ["No policy was evaluated in this run."]
    best = order[0]
    if len(order) == 1:
        return [f"Only {best} was evaluated: {report.score_name} {_score(report, best)}."]
    if best == report.reference:
        return [
            f"No policy beats the reference {best}, {report.score_name} {_score(report, best)}.",
            _next(report, order),
        ]
    verdict = f"{best} has the highest {report.score_name}, {_score(report, best)}"
    reference = None if report.reference is None else report.policies[report.reference].gold.mean
    if report.reference is None or reference is None:
        return [f"{verdict}.", _next(report, order)]
    return [
        f"{verdict}, which is {_gain(report, best, reference)} the reference {report.reference}.",
        *_rest(report, order),
    ]


def _rest(report: Report, order: list[str]) -> list[str]:
    """The reference's own score, and the runner-up's where that is not the reference."""
    best, reference = order[0], report.reference or ""
    own = f"{reference} scores {_score(report, reference)}{_apart(report, best, reference)}."
    return [own] if order[1] == reference else [own, _next(report, order)]


def _next(report: Report, order: list[str]) -> str:
    best, second = order[:2]
    return f"Next is {second}, {_score(report, second)}{_apart(report, best, second)}."


def _apart(report: Report, best: str, other: str) -> str:
    low, high = report.policies[best].gold.low, report.policies[other].gold.high
    if low is None or high is None:
        return ""
    return f"; the interval of {best} {'is clear of it' if low > high else 'overlaps it'}"


def _gain(report: Report, best: str, reference: float) -> str:
    gain = report.policies[best].gain
    if gain is not None and gain.mean is not None:
        return f"{_with_interval(gain)} above"
    return f"{number((report.policies[best].gold.mean or 0.0) - reference)} above"


def _score(report: Report, name: str) -> str:
    return _with_interval(report.policies[name].gold)


def _with_interval(value: Interval) -> str:
    if value.low is None or value.high is None:
        return number(value.mean)
    return f"{number(value.mean)} (95% CI {number(value.low)} to {number(value.high)})"
