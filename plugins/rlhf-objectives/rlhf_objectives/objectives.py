"""Rewards for several objectives: one dimension of another reward, brevity, and several rewards made one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from pydantic import Field

from rlhf_plugins import Aggregation, MemberScores, Prediction, Reward, Run, RunError, Samples, hookimpl, uses

Cut = Callable[[Samples], list[bool]]
WEIGHTS, WORDS = "weights", "words"  # columns of a prompt with words for weights before it: the weights, and the words


@dataclass(frozen=True)
class Dimension(Reward):
    """One of the dimensions that another reward predicts, such as a reward model with the head `multi`.

    It abstains where that has none, as a function of yours may whose dicts have other keys from response to response.
    """

    dimension: Annotated[str, Field(min_length=1, description="its name")]
    reward: Reward = uses("reward", "model")

    def build(self, run: Run) -> Any:
        """What it builds raises RunError where the reward predicts no such dimension."""
        whole: Any = self.reward.build(run)

        def score(samples: Samples) -> Prediction:
            found: Prediction = whole(samples)
            if self.dimension not in found.dimensions:
                raise RunError(f"no dimension {self.dimension!r} (known: {', '.join(found.dimensions) or 'none'})")
            values = found.dimensions[self.dimension]
            silent = values.isnan() if found.abstained is None else values.isnan() | found.abstained
            return Prediction(values.masked_fill(silent, 0.0), abstained=silent if silent.any() else None)

        return score


@dataclass(frozen=True)
class GoldDimension(Reward, reads_gold=True):
    """One dimension of the data's own true reward; only simulated data has one. An upper bound, never a result."""

    dimension: Annotated[str, Field(min_length=1, description="its name, such as `helpful` in the sandbox")]

    def build(self, run: Run) -> Any:
        """Raises RunError where the truth is not known; what it builds, where it has no such dimension."""
        gold = run.data.gold
        if gold is None:
            raise RunError("reward gold_dimension needs data whose true reward is known, such as format sandbox")

        def score(samples: Samples) -> list[float]:
            found = [gold(str(p), r) for p, r in zip(samples.prompts, samples.responses, strict=True)]
            if found and self.dimension not in found[0]:
                raise RunError(f"no true dimension {self.dimension!r} (known: {', '.join(found[0])})")
            return [each[self.dimension] for each in found]

        return score


@dataclass(frozen=True)
class Brevity(Reward):
    """Minus the words of a response, in tens."""

    def build(self, run: Run) -> Any:
        """Needs nothing of the run."""
        return lambda samples: [-len(response.split()) / 10 for response in samples.responses]


@dataclass(frozen=True)
class Combined(Reward):
    """Several rewards, one member each, made one by an `aggregation`; their weighted sum is the reward `weighted`.

    Members are in the order of `rewards`, all of equal accuracy. It abstains where a member does. An aggregation that
    compares siblings is given all responses to a prompt on which no member abstains: a response that has none to be
    compared with is refused, and it abstains where members do on all others.
    """

    rewards: tuple[Reward, ...] = uses("reward")
    aggregation: Aggregation = uses("aggregation")

    def __post_init__(self) -> None:
        if len(self.rewards) < 2:
            raise ValueError("rewards: at least two, or there is nothing to aggregate")

    def build(self, run: Run) -> CombinedReward:
        """Raises RunError as its rewards do."""
        called = run.spec(self.aggregation)["use"] if self.aggregation.compares_siblings else ""
        return CombinedReward([reward.build(run) for reward in self.rewards], self.aggregation, called)


@dataclass(frozen=True)
class CombinedReward:
    """What it builds.

    Args:
        parts: the members.
        aggregation: the aggregation of their rewards.
        compares: what a recipe calls it where it compares siblings; empty where it does not.
    """

    parts: Sequence[Any]
    aggregation: Aggregation
    compares: str

    def __call__(self, samples: Samples) -> Prediction:
        """Rewards. Raises RunError where responses are compared, and one has no other."""
        groups = torch.tensor(samples.groups())
        if self.compares and (alone := len(groups) - int(siblings(groups).sum())):
            raise RunError(
                f"aggregation {self.compares} compares the responses to a prompt, and {alone} of {len(groups)} have "
                "no other to be compared with: score several together, or take one that scores each alone, such as mean"
            )
        found = [part(samples) for part in self.parts]
        members = torch.stack([each.reward for each in found])  # (M, B)
        abstained = any_abstains(found)
        heard = torch.ones(members.shape[1], dtype=torch.bool) if abstained is None else ~abstained
        if self.compares:
            heard[heard.clone()] = siblings(groups[heard])
        reward = members.new_zeros(members.shape[1])
        if heard.any():
            scores = MemberScores(members[:, heard], members.new_ones(len(members)), groups[heard])
            reward[heard] = self.aggregation(scores)
        return Prediction(reward, abstained=None if abstained is None else ~heard, compared=bool(self.compares))


@dataclass(frozen=True)
class OfWeights(Reward):
    """sum_i w_i r_i, w from the column `weights` of each response's prompt, as the stage `conditioned` writes it.

    The rewards r_i read the prompt, or the conversation so far, without the words for the weights at its start, which
    are in the column `words`.
    """

    objectives: tuple[Reward, ...] = uses("reward")

    def build(self, run: Run) -> Any:
        """Raises RunError as its objectives do; what it builds, where a response has no weights."""
        from rlhf_plugins import cut_off

        parts: list[Any] = [reward.build(run) for reward in self.objectives]
        cut = cut_off(run.base)

        def score(samples: Samples) -> Prediction:
            if WEIGHTS not in samples.columns:
                raise RunError("reward conditioned: needs prompts with the columns that the stage `conditioned` writes")
            prompts = list(map(without, samples.prompts, samples.columns[WORDS]))
            found = [read_as(part, samples, prompts, cut) for part in parts]
            weights = torch.tensor(samples.columns[WEIGHTS], dtype=torch.float)  # (B, objectives)
            rewards = torch.stack([each.reward for each in found], 1)
            return Prediction((weights * rewards).sum(1), abstained=any_abstains(found))

        return score


def read_as(reward: Any, samples: Samples, prompts: Sequence[Any], cut: Cut) -> Prediction:
    """The rewards of responses as answers to these prompts, which may be others than those that were sampled for.

    One that was cut where it was sampled, as `cut` says, has no end before these prompts either.
    """
    if list(prompts) != list(samples.prompts):
        if getattr(reward, "encoder", None) is not None:
            read = reward.encode(prompts, samples.responses, cut(samples))
            samples = replace(read, columns=samples.columns, siblings=samples.siblings)
        else:
            samples = replace(samples, prompts=list(prompts))
    found: Prediction = reward(samples)
    return found


def before(prompt: Any, words: str) -> Any:
    """A text, or messages, with words at the start."""
    if isinstance(prompt, str):
        return words + prompt
    first, *rest = prompt
    return [{**first, "content": words + first["content"]}, *rest]


def without(prompt: Any, words: str) -> Any:
    """The same without them."""
    if isinstance(prompt, str):
        return prompt.removeprefix(words)
    first, *rest = prompt
    return [{**first, "content": first["content"].removeprefix(words)}, *rest]


def any_abstains(found: Sequence[Prediction]) -> torch.Tensor | None:
    """Where one of several predictions abstains, (B,); None where none of them may."""
    silent = [each.abstained for each in found if each.abstained is not None]
    return torch.stack(silent).any(0) if silent else None


def siblings(groups: torch.Tensor) -> torch.Tensor:
    """Whether another response is in the group of each, (B,)."""
    _, place, count = groups.unique(return_inverse=True, return_counts=True)
    return count[place] > 1


@hookimpl
def register_reward() -> dict[str, type]:
    """The rewards of this file."""
    return {
        "brevity": Brevity,
        "combined": Combined,
        "conditioned": OfWeights,
        "dimension": Dimension,
        "gold_dimension": GoldDimension,
    }
