"""What scores a policy's responses: the gold reward, a reward model, a function, or held-out likelihood alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rlhf_plugins.contract.handles import Policy
from rlhf_plugins.contract.rows import GoldReward, Samples
from rlhf_plugins.evaluate.statistics import finite
from rlhf_plugins.reward_models.handle import Predict, rewards

if TYPE_CHECKING:
    from rlhf_plugins.data.tokens import RowEncoder

LIKELIHOOD = "log-likelihood per token"  # what the scores are called where nobody judges responses


@dataclass(frozen=True)
class Judge:
    """The gold reward where it is known, else a reward: a model, or a function.

    Args:
        gold: the true reward.
        reward: what scores responses otherwise.
        called: what a reward is that is not a model of this run.
        stage: of this run, that trained it.
        encoder: of a reward model whose tokens are not the policy's.
    """

    gold: GoldReward | None
    reward: Predict | None
    called: str = ""
    stage: str = ""
    is_model: bool = True
    encoder: RowEncoder | None = None

    @property
    def name(self) -> str:
        """What the scores are called in a report."""
        return "gold reward" if self.gold else "reward model score" if self.is_model else "function score"

    def described(self) -> dict[str, str]:
        """As `report.schema.JudgeReport` has it."""
        kind = "gold" if self.gold else "reward model" if self.is_model else "function"
        return {"kind": kind, "name": self.called, "stage": self.stage}

    def scores(self, samples: Samples) -> np.ndarray:
        """One number a response, (n,), NaN where the judge abstains. Raises RunError where one is NaN or infinite."""
        if self.gold:
            return finite([worth["total"] for worth in self.worths(samples)], self.name)
        assert self.reward is not None
        if self.encoder is not None:
            from rlhf_plugins.data.tokens import encoded

            samples = encoded(samples.prompts, _answers(samples), self.encoder)
        given = rewards(self.reward(samples))
        finite([value for value in given if value is not None], self.name)
        return np.array([np.nan if value is None else value for value in given])

    def worths(self, samples: Samples) -> list[Mapping[str, float]]:
        """The gold reward's dimensions and total of each response; empty where it is unknown."""
        gold = self.gold
        return [gold(str(p), r) for p, r in zip(samples.prompts, samples.responses, strict=True)] if gold else []


def log_likelihoods(policy: Policy, answers: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability of each of the given answers under a policy, in nats, and its tokens, both (n,)."""
    log_probs = policy.log_probs(answers).double().cpu().sum(1).numpy()
    return finite(log_probs.tolist(), "log-likelihood"), np.array([len(ids) for ids in answers.response_ids])


def perplexity(log_probs: np.ndarray, tokens: np.ndarray) -> float:
    """exp of the mean negative log-probability of a token (Jelinek et al. 1977); infinity where that overflows."""
    with np.errstate(over="ignore"):
        return float(np.exp(-log_probs.sum() / tokens.sum()))


def _answers(samples: Samples) -> list[str | list[dict[str, str]]]:
    """The responses, as messages to prompts that are messages."""
    pairs = zip(samples.prompts, samples.responses, strict=True)
    return [r if isinstance(p, str) else [{"role": "assistant", "content": r}] for p, r in pairs]
