"""Policies over a handful of answers, where everything is known exactly. It uses the losses as a recipe names them.

A policy is a softmax of one number per answer. For rewards r and a reference, the policy that maximises
E[r] - beta KL(pi || pi_ref) is pi* = pi_ref exp(r / beta) / Z, and so KL(pi || pi*) says how far any other one is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from rlhf_plugins import PairLogps, component

Loss = Callable[[Tensor], Tensor]  # from the log-probabilities (answers,) to a scalar
Pair = tuple[int, int]  # the preferred answer, the other one
REFERENCE, REWARDS = (0.4, 0.3, 0.2, 0.1), (0.0, 1.0, 0.5, 2.0)  # probabilities and rewards of four answers


@dataclass(frozen=True)
class Judged:
    """Pairs of answers, with the probability that the first of each is preferred."""

    pairs: Sequence[Pair]
    probability: Tensor  # (pairs,)


def certain(pairs: Sequence[Pair]) -> Judged:
    """Each judged once, as it is written."""
    return Judged(pairs, torch.ones(len(pairs), dtype=torch.float64))


def bradley_terry(rewards: Tensor) -> Judged:
    """Every pair, with P(i > j) = sigmoid(r_i - r_j)."""
    pairs = list(combinations(range(len(rewards)), 2))
    return Judged(pairs, torch.stack([(rewards[i] - rewards[j]).sigmoid() for i, j in pairs]))


def optimal(reference: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """log pi* = log pi_ref + r / beta - log Z, (answers,)."""
    return (reference + rewards / beta).log_softmax(0)


def kl(policy: Tensor, other: Tensor) -> float:
    """KL(pi || other) of log-probabilities, in nats."""
    return float((policy.exp() * (policy - other)).sum())


def objective(policy: Tensor, reference: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """E[r] - beta KL(pi || pi_ref), which PPO climbs, without sampling."""
    return (policy.exp() * (rewards - beta * (policy - reference))).sum()


def preference(judged: Judged, reference: Tensor, loss: str, beta: float) -> Loss:
    """The mean of a preference loss over the pairs, as a function of the log-probabilities."""
    made: Any = component("preference_loss", loss, beta=beta)
    better, worse = (torch.tensor([pair[place] for pair in judged.pairs]) for place in (0, 1))
    one = torch.ones(len(better), dtype=torch.long)

    def mean(policy: Tensor) -> Tensor:
        sides = (policy[better], policy[worse], reference[better], reference[worse])
        logps = PairLogps.of(*sides, one, one, probability=judged.probability)
        total: Tensor = made(logps).mean()
        return total

    return mean


def solved(loss: Loss, reference: Tensor, steps: int = 200) -> Tensor:
    """Log-probabilities at the least loss, from the reference: exact where it has a least, by L-BFGS on the logits."""
    moved = torch.zeros_like(reference, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [moved], max_iter=steps, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def again() -> Tensor:
        optimizer.zero_grad()
        value = loss((reference + moved).log_softmax(0))
        value.backward()
        return value

    optimizer.step(again)
    return (reference + moved.detach()).log_softmax(0)


def descended(
    loss: Callable[[Tensor], Tensor], reference: Tensor, steps: Sequence[int], rate: float
) -> Iterator[Tensor]:
    """Log-probabilities after so many steps of gradient descent on the logits: where a loss has no least."""
    moved = torch.zeros_like(reference, requires_grad=True)
    for step in range(1, max(steps) + 1):
        (slope,) = torch.autograd.grad(loss((reference + moved).log_softmax(0)), moved)
        moved = (moved - rate * slope).detach().requires_grad_()
        if step in steps:
            yield (reference + moved.detach()).log_softmax(0)


def uniform(answers: int) -> Tensor:
    """Log-probabilities, all equal."""
    return torch.zeros(answers, dtype=torch.float64).log_softmax(0)
