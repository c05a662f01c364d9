"""What a student keeps of its teacher, and how much faster it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_plugins import Group, Policy, RunError, Samples
from rlhf_transfer.recovered import UNDEFINED, Estimate, Numbers, recovered, share

ROUNDS, TIMED = 5, 32  # rounds of timing; prompts in each


@dataclass(frozen=True)
class Kept:
    """Numbers of a comparison on the same prompts.

    Args:
        scores: mean of each policy by name.
        against_teacher: the student's win rate against the teacher; a tie is half a win.
        against_reference: win rates of teacher and student against the reference.
        gain: (student - reference) / (teacher - reference) of mean scores: what is kept of what the teacher gained.
    """

    scores: Mapping[str, float]
    against_teacher: Estimate
    against_reference: Mapping[str, Estimate]
    gain: Estimate


def speeds(policies: Mapping[str, Policy], prompts: Sequence[Group], seed: int, **options: Any) -> dict[str, float]:
    """Tokens per second of each policy's answers, the median of rounds in which they take turns.

    Other work on the machine then slows all of them. A first round, in which fast paths are tried, does not count.
    """
    found: dict[str, list[float]] = {name: [] for name in policies}
    for number in range(ROUNDS + 1):
        for name, policy in policies.items():
            began = time.perf_counter()
            samples = policy.sample(prompts[:TIMED], seed=seed + number, **options)
            found[name].append(sum(map(len, samples.response_ids)) / (time.perf_counter() - began))
    return {name: float(np.median(rounds[1:])) for name, rounds in found.items()}


def compared(teacher: Numbers, student: Numbers, reference: Numbers | None, seed: int = 0) -> Kept:
    """Scores of responses to the same prompts, all (prompts,); the reference is None where the teacher is it."""
    named = {"teacher": teacher, "student": student, **({} if reference is None else {"reference": reference})}
    of_reference: dict[str, Estimate] = {}
    gain = UNDEFINED
    if reference is not None:
        of_reference = {name: win_rate(named[name], reference) for name in ("teacher", "student")}
        gain = recovered(reference, student, teacher, np.arange(len(teacher)), seed)
    means = {name: float(each.mean()) for name, each in named.items()}
    return Kept(means, win_rate(student, teacher), of_reference, gain)


def win_rate(ours: Numbers, theirs: Numbers) -> Estimate:
    """The share of prompts that ours wins, a tie counting one half, with Wilson's interval (1927).

    Ties make it too wide. A bootstrap would give a policy that wins every prompt an interval without width.
    """
    return share(float(np.where(ours == theirs, 0.5, ours > theirs).mean()), len(ours))


def scored(samples: Samples, judge: Callable[[Samples], Any] | None, gold: Callable[..., Any] | None) -> Numbers:
    """Scores of the responses, (n,): the true reward if known, else the judge's. Raises RunError where it abstains."""
    if gold is not None:
        worths = (gold(prompt, text) for prompt, text in zip(samples.prompts, samples.responses, strict=True))
        return np.array([worth["total"] for worth in worths])
    assert judge is not None
    said = judge(samples)
    if said.abstained is not None and said.abstained.any():
        raise RunError("distill: the reward model abstains on a held-out answer, so that no mean can be compared")
    found: Numbers = said.reward.double().cpu().numpy()
    return found
