"""Which of a run's trained policies to take, in one sentence, or why the run cannot say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlhf_plugins.report import words
from rlhf_plugins.report.schema import Interval, PolicyReport, Report
from rlhf_plugins.report.verdict import NEAR, Verdict, faults, near, over, verdicts

_SEEDS = "Each was trained once: another seed may order them differently."


def answer(report: Report) -> str:
    """`DPO, IPO or PPO?` for this run; for a run with two or more verdicts."""
    found = verdicts(report)
    names = _either(list(found))
    if wrong := faults(report):
        return f"{names}? This run cannot say: its judge cannot be trusted, since {'; '.join(wrong)}."
    if not (better := _better(report, found)):
        if alike := [name for name, verdict in found.items() if verdict.word in ("better", "hardly differs")]:
            kept = report.reference or "the reference"
            return (
                f"{names}? Keep {kept}: at a KL below {NEAR} nats, {_and(alike)} can hardly be distinguished from it, "
                "whatever the scores say."
            )
        n = min(report.policies[name].n for name in found)
        if all(verdict.word == "not judged" for verdict in found.values()):
            return f"{names}? They cannot be judged on {n} prompts."
        return f"{names}? None is shown to be better than its start on {n} prompts: keep the start."
    leader, rivals = _led(report, better)
    if len(rivals) > 1:
        chosen = _cheapest(report, rivals)
        which = _and(rivals)
        return (
            f"{names}? {which} cannot be distinguished here; {chosen} {_why(report, chosen, rivals)}: take it. {_SEEDS}"
        )
    return f"{names}? Take {leader}{_lead(report, leader, list(found))}. {_SEEDS}"


def taken(report: Report) -> str | None:
    """The policy that the answer takes, or the only one if it is better than its start."""
    found = verdicts(report)
    better = [] if faults(report) else _better(report, found)
    if not better:
        return None
    leader, rivals = _led(report, better)
    return leader if len(rivals) < 2 else _cheapest(report, rivals)


def _better(report: Report, found: Mapping[str, Verdict]) -> list[str]:
    """The policies that are better than their start and whose responses differ from the reference's."""
    return [name for name, verdict in found.items() if verdict.word == "better" and not near(report.policies[name])]


def _led(report: Report, better: Sequence[str]) -> tuple[str, list[str]]:
    """The policy with the highest score, and all that are not clearly behind it, itself among them."""
    policies = report.policies
    leader = max(better, key=lambda name: policies[name].gold.mean or 0.0)
    return leader, [name for name in better if name == leader or not _clear(policies[leader], policies[name])]


def _clear(leader: PolicyReport, other: PolicyReport) -> bool:
    """Whether the other is behind beyond chance: by their paired difference or, without one, by apart intervals."""
    behind = _behind(leader, other)
    if behind is not None and behind.low is not None:
        return behind.low > 0
    return leader.gold.low is not None and other.gold.high is not None and leader.gold.low > other.gold.high


def _behind(leader: PolicyReport, other: PolicyReport) -> Interval | None:
    """How much more the leader scores; unknown where the policy that all are compared with is another one."""
    return other.behind if leader.behind is None else None


def _lead(report: Report, leader: str, names: Sequence[str]) -> str:
    """How far the next one is behind."""
    others = [name for name in names if name != leader]
    following = max(others, key=lambda name: report.policies[name].gold.mean or 0.0)
    behind = _behind(report.policies[leader], report.policies[following])
    if behind is None or behind.mean is None or behind.mean < 0:
        return ""
    return f": {over(behind)} over {following}" if behind.mean else f"; {following} scores the same"


def _cheapest(report: Report, names: Sequence[str]) -> str:
    """The least expensive to train or, where a cost is unknown, the one with the least KL."""
    return min(names, key=lambda name: _price(report, name, names))


def _price(report: Report, name: str, names: Sequence[str]) -> float:
    policy = report.policies[name]
    return (policy.seconds or 0.0) if _timed(report, names) else (policy.kl or 0.0)


def _timed(report: Report, names: Sequence[str]) -> bool:
    return all(report.policies[name].seconds is not None for name in names)


def _why(report: Report, chosen: str, names: Sequence[str]) -> str:
    if _timed(report, names):
        return f"costs least ({words.duration(report.policies[chosen].seconds)} of training)"
    return f"is nearest to the reference (KL {words.number(report.policies[chosen].kl, 2)})"


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
