"""Rewards for each token that leave the optimum of a reward for whole responses where it is.

All are potential-based shaping without discount (Ng et al. 1999, theorem 1): r_t = Phi(s_{t+1}) - Phi(s_t), where
Phi is 0 before the first token and the whole response's reward R after the last. So the tokens sum to R, and at every
state the same tokens are best; what is known earlier is paid earlier.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.function_logs import listening
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.run_kinds import Reward
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Samples
    from rlhf_plugins.contract.run import Run
    from rlhf_plugins.contract.run_kinds import RewardFunction


@dataclass(frozen=True)
class Guided(Reward):
    """A reward R of whole responses, guided by another one's numbers for tokens: Phi is their sum so far.

    r_t is the guide's own number, but at the last token R less the guide's other numbers. Adding the two, as `weighted`
    does, would change what is best.
    """

    reward: Reward = uses("reward", "model")
    guide: Reward = uses("reward")

    def build(self, run: Run) -> RewardFunction:
        """Raises RunError as both do; what it builds, where the guide gives no number for each token."""
        from rlhf_plugins.arithmetic.objectives import by_potential, lengths_and_mask
        from rlhf_plugins.reward_models.composed import Composed
        from rlhf_plugins.reward_models.handle import reward_handle

        whole, guide = (reward_handle(part.build(run)) for part in (self.reward, self.guide))

        def score(samples: Samples) -> Prediction:
            found, said = whole(samples), guide(samples)
            if said.tokens is None:
                raise RunError("reward guided: the guide should give each token a number, as `implicit` by_token does")
            _, mask = lengths_and_mask(samples.response_ids)
            tokens = by_potential(found.reward, said.tokens.cumsum(1), mask, 1.0)
            silent = [part.abstained for part in (found, said) if part.abstained is not None]
            abstained = sum(silent[1:], silent[0]) if silent else None
            return Prediction(found.reward, dimensions=found.dimensions, tokens=tokens, abstained=abstained)

        return Composed(score, (whole, guide))


@dataclass(frozen=True)
class ByToken(Reward):
    """A reward model's reward R of whole responses, each token paid what it adds: Phi is R of the response so far.

    Return decomposition by differences (Arjona-Medina et al. 2019) of a reward model that was trained on whole
    responses. Its pooling says which hidden states that training reached: `sum` and `mean` over the response those of
    every token, `last_token` the last one alone. All prefixes are of one forward pass.
    """

    reward: Reward = uses("reward", "model")

    def build(self, run: Run) -> RewardFunction:
        """Raises RunError as the reward does, and where it is no single reward model of a decoder."""
        from rlhf_plugins.reward_models.handle import reward_handle

        handle = reward_handle(self.reward.build(run))
        if handle.with_tokens is None:
            raise RunError("reward by_token: needs a single reward model, such as `model`; others may use `prefixes`")
        return handle.by_token


@dataclass(frozen=True)
class Prefixes(Reward):
    """A reward R of whole responses that is paid as it grows: Phi is R of the response so far, every few tokens.

    It asks the reward for every such prefix too, which a reward model has seldom seen: that makes a poor guide at
    worst, not another optimum. An ensemble that compares the responses to a prompt is refused.
    """

    reward: Reward = uses("reward", "model")
    every: Annotated[int, Field(ge=1, description="tokens from one prefix that is scored to the next")] = 8
    scored_alone = "prefixes of them are none"

    def build(self, run: Run) -> RewardFunction:
        """Raises RunError as the reward does, and where it compares responses."""
        from rlhf_plugins.arithmetic.objectives import by_potential, lengths_and_mask
        from rlhf_plugins.engine.weights.loading import load_tokenizer
        from rlhf_plugins.reward_models.composed import Composed
        from rlhf_plugins.reward_models.handle import fitting

        whole, tokenizer = fitting(self, "reward", self.reward.build(run)), load_tokenizer(run.base)

        def score(samples: Samples) -> Prediction:
            places = [(row, end) for row, ids in enumerate(samples.response_ids) for end in self._ends(len(ids))]
            cut = samples.take(row for row, _ in places)
            ids = [list(one[:end]) for one, (_, end) in zip(cut.response_ids, places, strict=True)]
            texts = [tokenizer.decode(each, skip_special_tokens=True) for each in ids]
            found, (_, mask) = whole(samples), lengths_and_mask(samples.response_ids)
            with listening():  # what a function logs of prefixes is not of the responses
                grown = whole(replace(cut, responses=texts, response_ids=ids)) if places else found
            potentials = found.reward.new_zeros(mask.shape)
            for number, (row, end) in enumerate(places):
                if grown.abstained is None or not grown.abstained[number]:
                    potentials[row, end - 1 :] = grown.reward[number]
            tokens = by_potential(found.reward, potentials, mask, 1.0)
            return Prediction(found.reward, dimensions=found.dimensions, tokens=tokens, abstained=found.abstained)

        return Composed(score, (whole,))

    def _ends(self, length: int) -> range:
        """The lengths of the prefixes of a response that are scored."""
        return range(self.every, length, self.every)


@hookimpl
def register_reward() -> dict[str, type]:
    """The rewards of this file."""
    return {"by_token": ByToken, "guided": Guided, "prefixes": Prefixes}
