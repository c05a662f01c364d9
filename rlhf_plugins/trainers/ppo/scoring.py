"""Rewards of sampled responses: the reward is called, its answer is shaped and laid out on tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rlhf_plugins.arithmetic import objectives
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rollout import ScoredResponses
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.data.conversations import Conversations, discounted_returns
from rlhf_plugins.errors import RunError


@dataclass(frozen=True)
class ResponseRewards:
    """The rewards of those of some responses for which the reward did not abstain: B of up to T tokens."""

    places: Sequence[int]  # (B,) among all responses
    rewards: Tensor  # (B,) as the reward gave them, summed over tokens where it gave one per token
    scores: Tensor  # (B,) after shaping, with the discounted ones of later turns of a conversation
    token_rewards: Tensor  # (B, T) after shaping; a row sums to its score
    by_token: bool = False  # whether the reward or a shaping gave each token a number
    prediction: Prediction = field(default_factory=lambda: Prediction(torch.zeros(0)))  # all outputs of the reward

    def to(self, device: torch.device) -> ResponseRewards:
        """The same on another device; the prediction stays where it is."""
        moved = {name: getattr(self, name).to(device) for name in ("rewards", "scores", "token_rewards")}
        return replace(self, **moved)

    def take(self, rows: Sequence[int], length: int) -> ResponseRewards:
        """Some of the responses, which have up to `length` tokens."""
        return ResponseRewards(
            places=[self.places[row] for row in rows],
            rewards=self.rewards[rows],
            scores=self.scores[rows],
            token_rewards=self.token_rewards[rows, :length],
            by_token=self.by_token,
            prediction=_taken(self.prediction, rows),
        )


@dataclass(frozen=True)
class Scorer:
    """Calls a reward and shapes its answer.

    Args:
        score: from samples to a prediction.
        shaping: built components, in order.
        ends: tokens that end a response.
        abstains: whether the reward may abstain; responses without a reward are then left out.
        fallback: scores the responses for which `score` abstains.
    """

    score: Callable[[Samples], Prediction]
    shaping: Sequence[Callable[[ScoredResponses], Tensor]]
    ends: Collection[int]
    abstains: bool = True
    fallback: Callable[[Samples], Prediction] | None = None

    def __call__(self, samples: Samples) -> ResponseRewards:
        """A shaping sees each response's sum; what it changes in the sum is paid at the last token.

        Raises:
            ComponentError: the reward or a shaping fails, or answers anything but finite numbers for these responses.
            RunError: the reward abstains and must not.
        """
        prediction, count = self._predicted(samples), len(samples.responses)
        places = _answered(prediction)
        if len(places) < count and not self.abstains:
            raise RunError(
                f"the reward abstained on {count - len(places)} of {count} responses; `abstained: drop` trains without "
                "them, `abstained: fallback` asks a second reward"
            )
        if not places:
            return ResponseRewards([], torch.zeros(0), torch.zeros(0), torch.zeros(0, 0))
        return self._shaped(_taken(prediction, places), samples.take(places), places)

    def _shaped(self, prediction: Prediction, samples: Samples, places: Sequence[int]) -> ResponseRewards:
        lengths, mask = objectives.lengths_and_mask(samples.response_ids)
        ended = torch.tensor([ids[-1] in self.ends for ids in samples.response_ids])
        scores, tokens = prediction.reward, prediction.tokens
        tokens = None if tokens is None else tokens[:, : mask.shape[1]].masked_fill(~mask, 0.0)
        for shape in self.shaping:
            shaped = shape(ScoredResponses(scores, lengths, ended, tokens))
            if shaped.dim() == 2:
                tokens = shaped.masked_fill(~mask, 0.0)
                scores = tokens.sum(1)
                continue
            tokens = None if tokens is None else tokens + objectives.at_the_end(shaped - scores, mask)
            scores = shaped
        paid = objectives.at_the_end(scores, mask) if tokens is None else tokens
        return ResponseRewards(places, prediction.reward, scores, paid, tokens is not None, prediction)

    def _predicted(self, samples: Samples) -> Prediction:
        """The reward's answer in float32 on the CPU, with the fallback's where it abstains."""
        found = _on_cpu(self.score(samples))
        missing = sorted(set(range(len(samples.responses))) - set(_answered(found)))
        if self.fallback is None or not missing:
            return found
        return _filled(found, _on_cpu(self.fallback(samples.take(missing))), missing, samples)


def with_later_turns(rewards: ResponseRewards, talks: Conversations, discount: float) -> ResponseRewards:
    """Pays each response, at its last token, what its conversation earns later: discount G' of the next turn.

    Responses are left out where the reward abstained on a later turn, so that what they earn is not known.
    """
    known: list[float | None] = [None] * len(talks.turn)
    for place, score in zip(rewards.places, rewards.scores.tolist(), strict=True):
        known[place] = score
    returns = discounted_returns(known, talks.following(), discount)
    rows = [row for row, place in enumerate(rewards.places) if returns[place] is not None]
    kept = rewards.take(rows, rewards.token_rewards.shape[1])
    if not rows:
        return kept
    scores = torch.tensor([returns[place] for place in kept.places])
    _, mask = objectives.lengths_and_mask(talks.samples.take(kept.places).response_ids)
    tokens = kept.token_rewards[:, : mask.shape[1]]
    return replace(kept, scores=scores, token_rewards=tokens + objectives.at_the_end(scores - kept.scores, mask))


def unlearned(
    rewards: ResponseRewards, group: Tensor, truncated: Tensor | None, keeps_equal: bool
) -> dict[str, Tensor]:
    """The responses to leave out of the loss, by reason, each (B,) bool and for one reason alone.

    Args:
        rewards: the rewards of B responses, which all count in what others are compared with.
        group: (B,) equal for responses to one prompt.
        truncated: (B,) bool, which did not end by themselves; None: these are kept.
        keeps_equal: whether groups are kept whose scores are all equal. Those with rewards per token always are.
    """
    found = {}
    if not keeps_equal and not rewards.by_token:
        found["equal_siblings"] = equal_siblings(rewards.scores, group)
    if truncated is not None:
        found["truncated"] = truncated & ~found.get("equal_siblings", torch.zeros_like(truncated))
    return found


def equal_siblings(scores: Tensor, group: Tensor) -> Tensor:
    """Whether all scores of a response's group are one number, (B,) bool.

    Args:
        scores: (B,).
        group: (B,) equal for responses to one prompt.
    """
    place, ends = group.unique(return_inverse=True)[1], ("amin", "amax")
    low, high = (torch.empty_like(scores).scatter_reduce(0, place, scores, end, include_self=False) for end in ends)
    return low[place] == high[place]


def _answered(prediction: Prediction) -> list[int]:
    """The places of the responses that have a reward."""
    if prediction.abstained is None:
        return list(range(len(prediction.reward)))
    found: list[int] = (~prediction.abstained).nonzero().flatten().tolist()
    return found


def _filled(found: Prediction, other: Prediction, rows: Sequence[int], samples: Samples) -> Prediction:
    """The rewards and the rewards of tokens of `found`, with those of `other` in these rows, which have no parts."""
    assert found.abstained is not None
    reward, abstained = found.reward.masked_fill(found.abstained, 0.0), found.abstained.clone()
    kept = other.reward if other.abstained is None else other.reward.masked_fill(other.abstained, 0.0)
    abstained[rows] = torch.zeros(len(rows), dtype=torch.bool) if other.abstained is None else other.abstained
    parts = {name: values.index_fill(0, torch.tensor(rows), torch.nan) for name, values in found.dimensions.items()}
    if found.tokens is None and other.tokens is None:
        reward[rows] = kept
        return Prediction(reward, dimensions=parts, abstained=abstained)
    _, mask = objectives.lengths_and_mask(samples.response_ids)
    tokens = objectives.at_the_end(reward, mask) if found.tokens is None else found.tokens.clone()
    given = objectives.at_the_end(kept, mask[rows]) if other.tokens is None else other.tokens
    reward[rows], tokens[rows] = kept, 0.0
    tokens[rows, : given.shape[1]] = given
    return Prediction(reward, dimensions=parts, tokens=tokens, abstained=abstained)


def _taken(prediction: Prediction, rows: Sequence[int]) -> Prediction:
    """The outputs of the reward for some responses."""
    return _changed(prediction, lambda part: part[rows])


def _on_cpu(prediction: Prediction) -> Prediction:
    """The same without gradients, numbers in float32."""
    return _changed(prediction, lambda part: (part.float() if part.is_floating_point() else part).detach().cpu())


def _changed(prediction: Prediction, change: Callable[[Tensor], Tensor]) -> Prediction:
    """A prediction with each of its tensors changed."""
    parts: dict[str, Any] = {k: change(part) for k, part in vars(prediction).items() if isinstance(part, Tensor)}
    dimensions = {name: change(values) for name, values in prediction.dimensions.items()}
    return replace(prediction, **parts, dimensions=dimensions)
