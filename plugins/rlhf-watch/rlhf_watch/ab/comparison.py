"""Compares policies with a baseline on the prompts that both answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_plugins import DataError, RunError, holm, sign_test
from rlhf_watch.ab import paired, power, sequential
from rlhf_watch.ab.length import LengthControlled, length_controlled
from rlhf_watch.ab.scores import Scored, by_conversation, read
from rlhf_watch.ab.votes import releases
from rlhf_watch.groups.fairness import Groups, by_group


@dataclass(frozen=True)
class Comparison:
    """A policy beside the baseline; wins are the policy's."""

    name: str
    baseline: str
    judge: str
    counts: paired.Counts
    left_out: int  # prompts that only one of them answered
    merged: int  # prompts of the baseline that count with others of their conversation
    win_rate: paired.Interval  # 95%
    difference: float  # the policy's mean score less the baseline's
    difference_interval: paired.Interval
    effect: float  # Cohen's d_z
    sign_p: float
    permutation_p: float
    holm_p: float  # the sign test's, corrected for all policies that are compared at once
    permutation_holm_p: float  # the permutation test's, likewise
    evidence: float  # e-value after the last prompt
    closed_evidence: float  # the same, corrected for all policies that are compared at once
    anytime_p: float  # p by the corrected e-values, whenever one stops
    decided_after: int | None  # prompts, had one looked at the corrected e-value after each
    decided_for: bool | None  # whether the policy had won more of these
    at_every_look: paired.Interval  # of the win rate without ties, 95% at all looks together
    smallest: float  # win rate that this many prompts would show with power 0.8
    length: LengthControlled | None
    groups: Groups | None = None  # win rates
    looks: int = 0  # releases so far of a study whose people go on judging

    @property
    def better(self) -> bool | None:
        """Whether the policy won; None where that is not shown at 5%, after the correction.

        The sequential test decides while people go on judging, as the prompts were when it did, else the sign test.
        """
        if self.looks:
            return self.decided_for
        return None if self.holm_p > 0.05 else self.counts.won > self.counts.lost


def compare(sources: Sequence[str], seed: int = 0, by: str = "") -> list[Comparison]:
    """Every later source beside the first; one run alone: its policies beside its reference.

    Args:
        sources: the sources as `scores.read` takes them.
        seed: the seed of the resampling tests.
        by: a column of the files that names the group of a prompt; win rates are then given by group.

    Raises:
        DataError: a file cannot be read, two share no prompt, or no file has the column.
        RunError: a run has no evaluation, or several policies of which none is named.
    """
    scored = read(sources[0], by) if len(sources) == 1 else [_one(source, by) for source in sources]
    if len(scored) < 2:
        raise DataError(f"{sources[0]}: one policy alone; name another file or run to compare it with")
    if by and not any(one.groups for one in scored):
        raise DataError(f"no row of {', '.join(sources)} has a column {by!r}; runs and releases keep no columns")
    scored = by_conversation(scored)
    found = [_beside(scored[0], other, seed) for other in scored[1:]]
    of_signs = holm({place: one.sign_p for place, one in enumerate(found)})
    of_means = holm({place: one.permutation_p for place, one in enumerate(found)})
    closed = sequential.closed(np.stack([_wealths(scored[0], other) for other in scored[1:]]))
    return [
        replace(
            one,
            holm_p=of_signs[place],
            permutation_holm_p=of_means[place],
            **_looks(values, scored[0], other),
        )
        for place, (one, other, values) in enumerate(zip(found, scored[1:], closed, strict=True))
    ]


def _beside_each(base: Scored, other: Scored) -> tuple[paired.Numbers, paired.Numbers]:
    """The scores of both on each prompt of the baseline; equal where the other has none, which decides nothing."""
    ours = np.array([other.scores.get(prompt, score) for prompt, score in base.scores.items()])
    return ours, np.array([*base.scores.values()])


def _wealths(base: Scored, other: Scored) -> paired.Numbers:
    """The e-value after each prompt of the baseline."""
    return sequential.wealths(*_beside_each(base, other))


def _looks(values: paired.Numbers, base: Scored, other: Scored) -> dict[str, Any]:
    """What the corrected e-values after each prompt of the baseline decide."""
    after = sequential.stops_at(values)
    found = {"closed_evidence": float(values[-1]), "anytime_p": sequential.anytime_p(values)}
    if after is None:
        return found
    ours, theirs = _beside_each(base, other)
    answered = sum(prompt in other.scores for prompt in islice(base.scores, after))
    return {**found, "decided_after": answered, "decided_for": bool(np.sign(ours - theirs)[:after].sum() > 0)}


def _one(source: str, by: str) -> Scored:
    """The policy of a source that holds one: of a run, that beside its reference."""
    if releases(Path(source)):
        raise DataError(f"{source}: the votes of a release are on its own two models; name it alone")
    scored = read(source, by)
    policies = scored[1:] if len(scored) > 1 else scored
    if len(policies) > 1:
        names = ", ".join(one.name for one in policies)
        raise RunError(f"{source}: several policies were evaluated; name one: {names}")
    return policies[0]


def _beside(base: Scored, other: Scored, seed: int) -> Comparison:
    prompts = [prompt for prompt in base.scores if prompt in other.scores]
    if not prompts:
        raise DataError(f"{base.name} and {other.name}: no prompt is in both")
    if base.judge and other.judge and base.judge != other.judge:
        raise DataError(f"{base.name} was scored by {base.judge}, {other.name} by {other.judge}: not comparable")
    ours = np.array([other.scores[prompt] for prompt in prompts])
    theirs = np.array([base.scores[prompt] for prompt in prompts])
    counts, evidence = paired.counts(ours, theirs), float(sequential.wealths(ours, theirs)[-1])
    return Comparison(
        name=other.name,
        baseline=base.name,
        judge=base.judge or other.judge,
        counts=counts,
        left_out=len(base.scores.keys() ^ other.scores.keys()),
        merged=base.merged,
        win_rate=paired.win_rate_interval(counts),
        difference=float((ours - theirs).mean()),
        difference_interval=paired.mean_interval(ours - theirs, seed),
        effect=paired.effect_size(ours - theirs),
        sign_p=sign_test(counts.won, counts.lost),
        permutation_p=paired.permutation_test(ours, theirs, seed),
        holm_p=1.0,
        permutation_holm_p=1.0,
        evidence=evidence,
        closed_evidence=evidence,
        anytime_p=1.0,
        decided_after=None,
        decided_for=None,
        at_every_look=sequential.sequential_interval(counts),
        smallest=power.smallest_win_rate(counts.prompts, ties=counts.tied / counts.prompts),
        length=_length(base, other, prompts, ours, theirs),
        groups=_groups({**other.groups, **base.groups}, prompts, ours, theirs),
        looks=base.looks,
    )


def _groups(
    names: Mapping[str, str], prompts: Sequence[str], ours: paired.Numbers, theirs: paired.Numbers
) -> Groups | None:
    """Win rates by group, of the prompts that are in one."""
    places = [place for place, prompt in enumerate(prompts) if prompt in names]
    if not names:
        return None
    won = np.where(ours == theirs, 0.5, ours > theirs)[places]
    return by_group([names[prompts[place]] for place in places], won.tolist())


def _length(
    base: Scored, other: Scored, prompts: Sequence[str], ours: paired.Numbers, theirs: paired.Numbers
) -> LengthControlled | None:
    """None where a file has no responses, or an evaluation does not say how long they were."""
    if base.lengths is None or other.lengths is None:
        return None
    longer = np.array([other.lengths[prompt] - base.lengths[prompt] for prompt in prompts])
    return length_controlled(ours, theirs, longer)
