"""What rollouts are paid: the reward asked and checked, shaped, and laid on tokens. It knows no model and no loss."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_plugins.arithmetic import objectives
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rollout import ScoredResponses
from rlhf_plugins.contract.rows import Samples


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

    score: Callable[[Samples], Prediction]
    shaping: Sequence[Callable[[ScoredResponses], Tensor]]
    ends: Collection[int]

    def __call__(self, samples: Samples) -> Told:
        """Shaping sees a response's sum; what it changes is paid at the last token.

        Raises:
            ComponentError: the reward or a shaping fails, or answers anything but finite numbers for these responses.
        """
        lengths = torch.tensor([len(ids) for ids in samples.response_ids])
        mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
        prediction = self.score(samples)
        rewards, tokens = prediction.reward, prediction.tokens
        ended = torch.tensor([ids[-1] in self.ends for ids in samples.response_ids])
        scores = rewards
        for shape in self.shaping:
            scores = shape(ScoredResponses(scores, lengths, ended))
        paid = torch.zeros(mask.shape) if tokens is None else tokens
        at_the_end = scores if tokens is None else scores - rewards
        return Told(rewards, scores, paid + objectives.at_the_end(at_the_end, mask), tokens is not None)
