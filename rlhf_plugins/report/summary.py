"""A report in a few sentences: the verdicts on its policies, or which reward model is right most often."""

from __future__ import annotations

from collections.abc import Mapping

from rlhf_plugins.report.recommendation import answer
from rlhf_plugins.report.schema import Interval, LabelsReport, Report, RewardModelReport
from rlhf_plugins.report.verdict import verdicts
from rlhf_plugins.report.words import number, share, wide


def summary(report: Report) -> list[str]:
    """Sentences, the answer first, then a verdict for each trained policy; every number in them is in the table."""
    found = verdicts(report)
    if found:
        said = [str(verdict) for verdict in found.values()]
        return said if len(found) == 1 else [answer(report), *said]
    measured = {name: policy for name, policy in report.policies.items() if policy.gold.mean is not None}
    if not measured:
        return _of_reward_models(report.measured_reward_models) or ["No policy was evaluated in this run."]
    scores = {name: _with_interval(policy.gold, policy.n) for name, policy in measured.items()}
    if len(measured) == 1:
        return [f"Only {name} was evaluated: {report.score_name} {score}." for name, score in scores.items()]
    listed = ", ".join(f"{name} {score}" for name, score in scores.items())
    return [f"No trained policy was compared with its start: {report.score_name} {listed}."]


def _of_reward_models(models: Mapping[str, RewardModelReport]) -> list[str]:
    """How often the best one is right, the baseline beside it, and the runner-up; nothing without one."""
    labels = [_of_labels(name, model.labels) for name, model in models.items() if model.labels]
    order = sorted(models, key=lambda name: -(models[name].accuracy or 0.0))
    if not order or models[order[0]].accuracy is None:
        return labels
    best = models[order[0]]
    verb = "orders" if len(order) == 1 else "is the most accurate reward model: it orders"
    sentences = [f"{order[0]} {verb} {_accuracy(best)} of {best.n} held-out pairs as people did."]
    if best.longer_response_accuracy is not None:
        sentences.append(f"Always preferring the longer response is right on {share(best.longer_response_accuracy)}.")
    if len(order) > 1:
        second = models[order[1]]
        apart = _clear(order[0], best.accuracy_interval, second.accuracy_interval)
        sentences.append(f"Next is {order[1]}, {_accuracy(second)}{apart}.")
    return sentences + labels


def _of_labels(name: str, labels: LabelsReport) -> str:
    right = _share(labels.accuracy.mean, labels.accuracy, labels.n)
    return f"{name} agrees with {right} of {labels.n} held-out labels, of which {share(labels.desirable)} are true."


def _accuracy(model: RewardModelReport) -> str:
    return _share(model.accuracy, model.accuracy_interval, model.n)


def _share(mean: float | None, interval: Interval | None, n: int) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return share(mean)
    return f"{share(mean)} ({_interval(share(interval.low), share(interval.high), n)})"


def _clear(best: str, ours: Interval | None, theirs: Interval | None) -> str:
    if ours is None or theirs is None or ours.low is None or theirs.high is None:
        return ""
    return f"; the interval of {best} {'is clear of it' if ours.low > theirs.high else 'overlaps it'}"


def _with_interval(value: Interval, n: int) -> str:
    if value.low is None or value.high is None:
        return number(value.mean)
    return f"{number(value.mean)} ({_interval(number(value.low), number(value.high), n)})"


def _interval(low: str, high: str, n: int) -> str:
    return "; ".join(filter(None, (f"95% CI {low} to {high}", wide(n))))
