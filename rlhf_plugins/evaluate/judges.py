"""What scores a policy's responses: the gold reward, a reward model, a function, or held-out likelihood alone."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_plugins.arithmetic.intervals import share_interval
from rlhf_plugins.arithmetic.scored import larger
from rlhf_plugins.contract.handles import Policy
from rlhf_plugins.contract.records import Verdict
from rlhf_plugins.contract.rows import GoldReward, Group, Samples, Text
from rlhf_plugins.data.turns import as_text
from rlhf_plugins.errors import RunError
from rlhf_plugins.evaluate.statistics import finite
from rlhf_plugins.reward_models.handle import RewardHandle, rewards

if TYPE_CHECKING:
    from rlhf_plugins.contract.run_kinds import JudgeFunction

COMPARES = (
    "The aggregation {} compares responses and scores none alone: a score is the probability, by the members, that a "
    "response is better than that of {} to the same prompt."
)
LIKELIHOOD = "log-likelihood per token"  # what the scores are called where nobody judges responses


@dataclass(frozen=True)
class ScoreJudge:
    """The gold reward where it is known, else a reward: a model, or a function.

    Args:
        gold: the true reward.
        reward: what scores responses otherwise.
        called: what a reward is that is not a model of this run.
        stage: the stage of this run, that trained it.
    """

    gold: GoldReward | None
    reward: RewardHandle | None
    called: str = ""
    stage: str = ""
    is_model: bool = True

    @property
    def name(self) -> str:
        """What the scores are called in a report."""
        return "gold reward" if self.gold else "reward model score" if self.is_model else "function score"

    def described(self) -> dict[str, str]:
        """The judge as a `report.schema.JudgeReport`."""
        kind = "gold" if self.gold else "reward model" if self.is_model else "function"
        return {"kind": kind, "name": self.called, "stage": self.stage}

    def scores(self, samples: Samples) -> np.ndarray:
        """One number a response, (n,), NaN where the judge abstains. Raises RunError where one is NaN or infinite."""
        return self.scores_and_parts(samples)[0]

    def scores_and_parts(self, samples: Samples) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """`scores`, and the parts of a reward that has some, (n,) by name, NaN where a response has none."""
        if self.gold:
            return finite([worth["total"] for worth in self.worths(samples)], self.name), {}
        assert self.reward is not None
        found = self.reward(samples)
        given = rewards(found)
        finite([value for value in given if value is not None], self.name)
        scores = np.array([np.nan if value is None else value for value in given])
        parts = {name: values.double().cpu().numpy() for name, values in found.dimensions.items()}
        return scores, {name: np.where(np.isnan(scores), np.nan, values) for name, values in parts.items()}

    def worths(self, samples: Samples) -> list[Mapping[str, float]]:
        """The gold reward's dimensions and total of each response; empty where it is unknown."""
        gold = self.gold
        return [gold(str(p), r) for p, r in zip(samples.prompts, samples.responses, strict=True)] if gold else []


@dataclass
class PairJudge:
    """Compares each response with the reference's to the same prompt; a score is the probability that it is better.

    Args:
        ask: what compares.
        reference: the name of the policy that all are compared with.
        remember: gives what a call of this name made before, so that an answer that was paid for survives a kill.
        called: what it is.
        stage: the stage of this run, that trained the reward model by which it compares.
        reward: this model, where it was not chosen as a judge of pairs and compares responses all the same.
    """

    ask: JudgeFunction
    reference: str
    remember: Callable[[str, Callable[[], Any]], Any]
    called: str
    stage: str = ""
    reward: RewardHandle | None = None
    verdicts: list[Verdict] = field(default_factory=list)  # of all comparisons

    @property
    def name(self) -> str:
        """What the scores are called in a report."""
        return f"P(better than {self.reference})"

    def described(self) -> dict[str, Any]:
        """The judge as a `report.schema.JudgeReport`."""
        silent = sum(one.probability is None for one in self.verdicts)
        share = silent / len(self.verdicts) if self.verdicts else None
        return {"kind": "pairs", "name": self.called, "stage": self.stage, "failed": share}

    def compared(self, who: str, ours: Samples, theirs: Samples) -> np.ndarray:
        """A probability a prompt, (n,), NaN where the judge failed or abstained."""
        if who == self.reference:
            return np.full(len(ours.responses), 0.5)
        found = self._asked(who, ours.prompts, ours.responses, theirs.responses)
        self.verdicts += found
        return _probabilities(found)

    def accuracy(self, pairs: Sequence[Group]) -> dict[str, Any] | None:
        """How often it prefers what people preferred, as `report.schema.RewardModelReport` has it; None of no pair.

        Every other pair is shown with the rejected response first: a judge that always says the first is right half
        the time.
        """
        chosen, rejected = ([as_text(pair.responses[side]) for pair in pairs] for side in (0, 1))
        turned = np.arange(len(pairs)) % 2  # 1 where the rejected one is first
        first, second = (
            [as_text(pair.responses[turn ^ side]) for pair, turn in zip(pairs, turned, strict=True)] for side in (0, 1)
        )
        found = _probabilities(self._asked("held-out pairs", [pair.prompt for pair in pairs], first, second))
        right = np.where(turned, 1 - found, found)
        longer = np.array([len(one) for one in chosen]), np.array([len(other) for other in rejected])
        known = np.isfinite(right)
        if not known.any():
            return None
        won = larger(right[known], np.full(int(known.sum()), 0.5))
        return {
            "accuracy": float(won.mean()),
            "accuracy_interval": share_interval(won)._asdict(),
            "n": int(known.sum()),
            "ece": None,
            "longer_response_accuracy": float(larger(*(each[known] for each in longer)).mean()),
        }

    def reasons(self) -> list[str]:
        """Why responses are compared with the reference's, and why comparisons had no answer, with their number."""
        silent = Counter(one.reason or one.status for one in self.verdicts if one.probability is None)
        why = [COMPARES.format(self.reward.compares, self.reference)] if self.reward else []
        return why + [f"{count} comparisons without an answer: {reason}." for reason, count in silent.most_common(5)]

    def _asked(self, who: str, prompts: Sequence[Text], ours: Sequence[str], theirs: Sequence[str]) -> list[Verdict]:
        if not prompts:
            return []
        texts = json.dumps([[as_text(prompt) for prompt in prompts], list(ours), list(theirs)])
        name = f"judge-{re.sub(r'[^a-zA-Z0-9_.-]', '-', who)[:40]}-{sha256(texts.encode()).hexdigest()[:12]}"
        return [Verdict(*row) for row in self.remember(name, lambda: _rows(self.ask(prompts, ours, theirs)))]


def _rows(verdicts: Sequence[Verdict]) -> list[list[Any]]:
    """The verdicts as they are saved. Raises RunError where all failed, so that a later run asks again."""
    if all(one.status == "failed" for one in verdicts):
        reason = verdicts[0].reason or "it gave no reason"
        raise RunError(f"evaluate: the judge answered no comparison: {reason}")
    return [[one.probability, one.status, one.reason] for one in verdicts]


def _probabilities(verdicts: Sequence[Verdict]) -> np.ndarray:
    return np.array([np.nan if one.probability is None else one.probability for one in verdicts])


def log_likelihoods(policy: Policy, answers: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability of each of the given answers under a policy, in nats, and its tokens, both (n,)."""
    log_probs = policy.log_probs(answers).double().cpu().sum(1).numpy()
    return finite(log_probs.tolist(), "log-likelihood"), np.array([len(ids) for ids in answers.response_ids])


def perplexity(log_probs: np.ndarray, tokens: np.ndarray) -> float:
    """exp of the mean negative log-probability of a token (Jelinek et al. 1977); infinity where that overflows."""
    with np.errstate(over="ignore"):
        return float(np.exp(-log_probs.sum() / tokens.sum()))
