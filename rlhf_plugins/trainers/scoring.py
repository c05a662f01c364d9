"""What rollouts are paid: the reward asked and checked, shaped, and laid on tokens. It knows no model and no loss."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_plugins.arithmetic import objectives
from rlhf_plugins.contract.guards import asked, rewarded
from rlhf_plugins.contract.interfaces import RewardFunction, Samples
from rlhf_plugins.contract.rollout import Scored


@dataclass(frozen=True)
class Told:
    """The rewards of B responses of up to T tokens."""

    rewards: Tensor  # (B,) as the reward said, summed over tokens where it said more
    scores: Tensor  # (B,) after shaping
    paid: Tensor  # (B, T) what each token is paid; a row sums to its score
    by_token: bool  # whether the reward spoke of single tokens

    def to(self, device: torch.device) -> Told:
        """The same elsewhere."""
        return Told(self.rewards.to(device), self.scores.to(device), self.paid.to(device), self.by_token)

    def first(self, count: int, length: int) -> Told:
        """The first `count` responses, which have up to `length` tokens."""
        return Told(self.rewards[:count], self.scores[:count], self.paid[:count, :length], self.by_token)


@dataclass(frozen=True)
class Scorer:
    """Asks a reward.

    Args:
        score: answers B numbers, or B rows with a number for each token of the response.
        shaping: built components, in order.
        ends: tokens that end a response.
    """

    score: RewardFunction
    shaping: Sequence[Callable[[Scored], Tensor]]
    ends: Collection[int]

    def __call__(self, samples: Samples) -> Told:
        """Shaping sees a response's sum; what it changes is paid at the last token.

        Raises:
            ComponentError: the reward or a shaping fails, or answers anything but finite numbers for these responses.
        """
        lengths = torch.tensor([len(ids) for ids in samples.response_ids])
        mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
        rows = rewarded(self.score, samples)
        rewards = torch.stack([row.sum() for row in rows])
        by_token = bool(rows[0].dim())
        ended = torch.tensor([ids[-1] in self.ends for ids in samples.response_ids])
        scores = rewards
        for shape in self.shaping:
            scores = asked(shape, Scored(scores, lengths, ended), shape=(len(rows),))
        paid = torch.zeros(mask.shape)
        if by_token:
            paid[mask] = torch.cat(rows)
        at_the_end = scores - rewards if by_token else scores
        return Told(rewards, scores, paid + objectives.at_the_end(at_the_end, mask), by_token)
