"""What monitors read of a rollout: one number each, None where the training does not have it. They keep no state."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rlhf_plugins import Step

OPENING = 5  # words


def length(step: Step) -> float | None:
    """Tokens of a response, the mean."""
    return _mean(step.responses.get("tokens"))


def entropy(step: Step) -> float | None:
    """Nats per token, the mean over responses."""
    return _mean(step.responses.get("entropy"))


def reward_deviation(step: Step) -> float | None:
    """The standard deviation of the rewards of all responses."""
    rewards = _finite(step.responses.get("reward"))
    return float(np.std(rewards)) if len(rewards) > 1 else None


def disagreement(step: Step) -> float | None:
    """The deviation of an ensemble's members on a response, the mean over responses on which all are finite."""
    if step.prediction is None or step.prediction.members is None:
        return None
    return _mean(step.prediction.members.float().std(1).tolist())  # (B, M)


def repetition(step: Step) -> float | None:
    """The share of three-word sequences that stand in their response already, the mean over responses."""
    return None if step.samples is None else _mean([repeated(text) for text in step.samples.responses])


def repeated(text: str, size: int = 3) -> float:
    """The share of sequences of `size` words that a text has had already; 0 where it is shorter."""
    words = text.split()
    grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def boilerplate(step: Step, phrases: Sequence[str]) -> float | None:
    """The share of responses that hold a phrase, or open as a response to another prompt does."""
    return None if step.samples is None else _mean([float(one) for one in stock(step, phrases)])


def stock(step: Step, phrases: Sequence[str]) -> list[bool]:
    """Which responses are boilerplate."""
    assert step.samples is not None
    openings = [" ".join(text.lower().split()[:OPENING]) for text in step.samples.responses]
    asked: dict[str, Counter[str]] = {}
    for opening, prompt in zip(openings, step.samples.prompts, strict=True):
        asked.setdefault(opening, Counter())[str(prompt)] += 1
    wanted = [phrase.lower() for phrase in phrases]
    return [
        any(phrase in text.lower() for phrase in wanted) or (bool(opening) and len(asked[opening]) > 1)
        for text, opening in zip(step.samples.responses, openings, strict=True)
    ]


def _finite(values: Sequence[float] | None) -> list[float]:
    return [value for value in values or () if math.isfinite(value)]


def _mean(values: Sequence[float] | None) -> float | None:
    found = _finite(values)
    return math.fsum(found) / len(found) if found else None
