"""Further prompts in the place of those whose responses all score alike (DAPO, Yu et al. 2025, section 3.2).

What samples and scores them is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_plugins.arithmetic.ranking import concatenated
from rlhf_plugins.contract import processes
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.data.conversations import Conversations
from rlhf_plugins.errors import RunError
from rlhf_plugins.trainers.ppo.options import ROUNDS
from rlhf_plugins.trainers.ppo.scoring import ResponseRewards

if TYPE_CHECKING:
    from rlhf_plugins.contract.records import Prediction
    from rlhf_plugins.trainers.ppo.rollout import Scored


@dataclass(frozen=True)
class Drawn:
    """Responses to some prompts, and their rewards."""

    talks: Conversations
    scored: Scored
    each: Tensor  # (B, F) their rewards by each reward function, NaN where it did not answer

    @property
    def differing(self) -> int:
        """How many prompts have responses that do not all score alike."""
        group = self.scored.group
        equal = self.scored.unlearned.get("equal_siblings", torch.zeros_like(group, dtype=torch.bool))
        return len(group[~equal].unique())


class Refill:
    """Samples for a rollout until it has its number of prompts whose responses do not all score alike, or gives up.

    A round asks as many further prompts as are missing. They come from an order of their own, in which each comes once
    before any comes again, so that steps and epochs are counted as without.

    Args:
        rows: all prompts to train on.
        group: responses to a prompt.
        seed: the seed of the order.

    Raises:
        RunError: the rows are streamed.
    """

    def __init__(self, rows: Any, group: int, seed: int) -> None:
        if not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
            raise RunError("equal_groups: resample takes prompts by their number, and a stream has none: write drop")
        self._rows, self._group, self._seed = rows, group, seed
        self._taken = 0  # further prompts so far

    def __call__(self, first: Drawn, draw: Callable[[Sequence[Mapping[str, Any]]], Drawn]) -> tuple[Drawn, int]:
        """The responses to the prompts of a rollout and to further ones, and how many prompts are still missing.

        Args:
            first: the responses to its own prompts.
            draw: samples and scores responses to rows, each of which comes as often as it has responses.
        """
        wanted, found = len(first.talks.turn) // self._group, [first]
        missing = wanted - first.differing
        while missing and len(found) <= ROUNDS and not found[-1].scored.rewards.by_token:
            found.append(draw([row for row in self._take(missing) for _ in range(self._group)]))
            missing = processes.from_main(missing - found[-1].differing)
        return joined(found, self._group), missing

    def _take(self, count: int) -> list[Mapping[str, Any]]:
        """The next rows of the order."""
        size, places = len(self._rows), range(self._taken, self._taken + count)
        passes = {place // size for place in places}
        order = {number: _shuffled(size, self._seed + number) for number in passes}
        self._taken += count
        return [self._rows[order[place // size][place % size]] for place in places]

    def state_dict(self) -> dict[str, int]:
        """How many further prompts were taken so far."""
        return {"taken": self._taken}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """What `state_dict` gave."""
        self._taken = state["taken"]


def _shuffled(size: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


def joined(rounds: Sequence[Drawn], group: int) -> Drawn:
    """The responses of all rounds as those of one rollout, whose minibatches are as many as those of the first round.

    Args:
        rounds: the rounds of single responses.
        group: responses to a prompt.
    """
    if len(rounds) == 1:
        return rounds[0]
    samples = reduce(Samples.__add__, [each.talks.samples for each in rounds])
    behind = [0, *accumulate(len(each.talks.turn) for each in rounds)]  # responses of the rounds before each
    parts = [(each.scored, start) for each, start in zip(rounds, behind, strict=False) if len(each.scored.group)]
    return Drawn(
        talks=Conversations.of_one_turn(samples),
        scored=_scored(rounds, parts, group) if parts else rounds[0].scored,
        each=torch.cat([each.each for each in rounds]),
    )


def _scored(rounds: Sequence[Drawn], parts: Sequence[tuple[Scored, int]], group: int) -> Scored:
    """The scored responses of rounds, with the number of responses before each."""
    first = rounds[0].scored
    return replace(
        first,
        samples=reduce(Samples.__add__, [each.samples for each, _ in parts]),
        rewards=_rewards(parts),
        group=torch.cat([each.group + start // group for each, start in parts]),
        baseline=_joined([each.baseline for each, _ in parts]),
        left_out={name: sum(each.scored.left_out[name] for each in rounds) for name in first.left_out},
        unlearned={name: torch.cat([each.unlearned[name] for each, _ in parts]) for name in parts[0][0].unlearned},
    )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [each for each in parts if each is not None]
    return torch.cat(known) if known else None


def _rewards(parts: Sequence[tuple[Scored, int]]) -> ResponseRewards:
    every = [each.rewards for each, _ in parts]
    longest = max(each.token_rewards.shape[1] for each in every)
    padded = [torch.nn.functional.pad(each.token_rewards, (0, longest - each.token_rewards.shape[1])) for each in every]
    return ResponseRewards(
        places=[place + start for each, start in parts for place in each.rewards.places],
        rewards=torch.cat([each.rewards for each in every]),
        scores=torch.cat([each.scores for each in every]),
        token_rewards=torch.cat(padded),
        by_token=every[-1].by_token,
        prediction=concatenated(_with_all_parts([each.prediction for each in every])),
    )


def _with_all_parts(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Each with the parts that any has, NaN where it has none: a function may name other parts at each call."""
    names = dict.fromkeys(name for each in predictions for name in each.dimensions)
    return [
        replace(each, dimensions={n: each.dimensions.get(n, torch.full_like(each.reward, torch.nan)) for n in names})
        for each in predictions
    ]
