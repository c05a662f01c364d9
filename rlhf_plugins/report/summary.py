"""A report in a few sentences: which policy or reward model won, by how much, and whether intervals overlap."""

from __future__ import annotations

from collections.abc import Mapping

from rlhf_plugins.report.schema import Interval, Report, RewardModelReport
from rlhf_plugins.report.words import number, share


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
        return _of_reward_models(report.measured_reward_models) or ["No policy was evaluated in this run."]
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


def _of_reward_models(models: Mapping[str, RewardModelReport]) -> list[str]:
    """How often the best one is right, the baseline beside it, and the runner-up; nothing without one."""
    order = sorted(models, key=lambda name: -(models[name].accuracy or 0.0))
    if not order or models[order[0]].accuracy is None:
        return []
    best = models[order[0]]
    verb = "orders" if len(order) == 1 else "is the most accurate reward model: it orders"
    sentences = [f"{order[0]} {verb} {_accuracy(best)} of {best.n} held-out pairs as people did."]
    if best.longer_response_accuracy is not None:
        sentences.append(f"Always preferring the longer response is right on {share(best.longer_response_accuracy)}.")
    if len(order) > 1:
        second = models[order[1]]
        apart = _clear(order[0], best.accuracy_interval, second.accuracy_interval)
        sentences.append(f"Next is {order[1]}, {_accuracy(second)}{apart}.")
    return sentences


def _accuracy(model: RewardModelReport) -> str:
    interval = model.accuracy_interval
    if interval is None or interval.low is None or interval.high is None:
        return share(model.accuracy)
    return f"{share(model.accuracy)} (95% CI {share(interval.low)} to {share(interval.high)})"


def _rest(report: Report, order: list[str]) -> list[str]:
    """The reference's own score, and the runner-up's where that is not the reference."""
    best, reference = order[0], report.reference or ""
    own = f"{reference} scores {_score(report, reference)}{_apart(report, best, reference)}."
    return [own] if order[1] == reference else [own, _next(report, order)]


def _next(report: Report, order: list[str]) -> str:
    best, second = order[:2]
    return f"Next is {second}, {_score(report, second)}{_apart(report, best, second)}."


def _apart(report: Report, best: str, other: str) -> str:
    return _clear(best, report.policies[best].gold, report.policies[other].gold)


def _clear(best: str, ours: Interval | None, theirs: Interval | None) -> str:
    if ours is None or theirs is None or ours.low is None or theirs.high is None:
        return ""
    return f"; the interval of {best} {'is clear of it' if ours.low > theirs.high else 'overlaps it'}"


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
