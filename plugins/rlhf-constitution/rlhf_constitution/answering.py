"""Answers of a policy to prompts, some an explorer's: (1 - epsilon) pi(y | x) + epsilon pi_explore(y | x)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from rlhf_constitution.texts import Text
from rlhf_plugins import Earlier, Generator, Group, Run, RunError

From = Annotated[
    Annotated[str, Field(description="the policy that answers: `previous`, `base`, or an earlier one")],
    Earlier("policy", ("base", "previous")),
]


@dataclass(frozen=True)
class Sampling:
    """How prompts are answered."""

    temperature: Annotated[float, Field(gt=0, description="of the policy")] = 1.0
    max_new_tokens: Annotated[int, Field(ge=1, description="where an answer is cut")] = 64
    exploration: Annotated[float, Field(ge=0, lt=1, description="epsilon, the share of the explorer's answers")] = 0.0
    explore_temperature: Annotated[float, Field(gt=0, description="of the explorer")] = 1.2


def training_prompts(run: Run) -> Sequence[Group]:
    """The prompts that may be answered. Raises RunError where the data has none."""
    found = run.data.prompts.get("train", ())
    if not found:
        raise RunError("the data has no training prompts to answer")
    return found


def answers(run: Run, prompts: Sequence[Text], n: int, how: Sampling, explorer: Generator | None) -> list[list[str]]:
    """`n` answers to each prompt; each is the explorer's with the probability epsilon. Equal seeds, equal answers."""

    def sampled(policy: object, temperature: float, seed: int) -> list[list[str]]:
        with policy:  # type: ignore[attr-defined]
            found = policy.sample(  # type: ignore[attr-defined]
                prompts, n, temperature=temperature, max_new_tokens=how.max_new_tokens, seed=seed
            ).responses
        return [list(found[at : at + n]) for at in range(0, len(found), n)]

    own = sampled(run.policy(), how.temperature, run.seed)
    if explorer is None or how.exploration == 0:
        return own
    other = sampled(explorer.build(run), how.explore_temperature, run.seed + 1)
    draw = random.Random(run.seed)
    return [
        [theirs if draw.random() < how.exploration else ours for ours, theirs in zip(row, explored, strict=True)]
        for row, explored in zip(own, other, strict=True)
    ]
