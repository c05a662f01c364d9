"""Aggregations: from the rewards of an ensemble's members to one reward.

None but `fixed` depends on the order of the members, with one member the reward is that member's, and all but `vote`
have a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import Aggregation
from rlhf_plugins.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_plugins.contract.records import MemberScores


@dataclass(frozen=True)
class Mean(Aggregation, under_shift="follows", under_scale="follows"):
    """1/M sum_m r_m (Lakshminarayanan et al. 2017)."""

    def __call__(self, members: MemberScores) -> Tensor:  # (B,)
        """Ignores accuracies and groups."""
        return members.rewards.mean(0)


@dataclass(frozen=True)
class Weighted(Aggregation, reads_accuracy=True, under_shift="follows", under_scale="follows"):
    """sum_m w_m r_m with w_m proportional to exp(alpha accuracy_m) and of sum 1."""

    alpha: Annotated[
        float, Field(ge=0, description="0 is the mean; at 10, 0.1 more accuracy weighs e times as much")
    ] = 10.0

    def __call__(self, members: MemberScores) -> Tensor:  # (B,)
        """Ignores groups."""
        weights = (self.alpha * members.accuracy.to(members.rewards.dtype)).softmax(0)  # (M,)
        return (weights.unsqueeze(1) * members.rewards).sum(0)


@dataclass(frozen=True)
class Expert(
    Aggregation, reads_accuracy=True, reads_topics=True, needs={"topic"}, under_shift="follows", under_scale="follows"
):
    """sum_m w_m r_m with w_m proportional to exp(alpha accuracy_m(topic)): each member counts where it is good.

    A topic's accuracy is shrunk towards the member's own by 10 pairs. The topic of a response is the column `topic` of
    its row, so rows keep it, `columns: {keep: [topic]}`; without one, or with one that training had not, the weights
    are those of `weighted`.
    """

    alpha: Annotated[
        float, Field(ge=0, description="0 is the mean; at 10, 0.1 more accuracy weighs e times as much")
    ] = 10.0

    def __call__(self, members: MemberScores) -> Tensor:  # (B,)
        """Ignores groups."""
        own = members.accuracy.unsqueeze(1).expand_as(members.rewards)
        accuracy = own if members.topic_accuracy is None else members.topic_accuracy  # (M, B)
        return ((self.alpha * accuracy.to(members.rewards.dtype)).softmax(0) * members.rewards).sum(0)


@dataclass(frozen=True)
class Fixed(Aggregation, under_shift="follows", under_scale="follows"):
    """sum_m w_m r_m / sum_m w_m with weights that are given, in the order of the members.

    Where `early_exit` asks only the first members about a prompt, the sums are over these.
    """

    weights: Annotated[
        list[Annotated[float, Field(gt=0)]], Field(min_length=1, description="w, one per member, such as [.5, .3, .2]")
    ]

    def fits(self, members: int) -> None:
        """Raises ValueError where there are more or fewer members than weights."""
        if members != len(self.weights):
            raise ValueError(f"aggregation: {len(self.weights)} weights for {members} members")

    def __call__(self, members: MemberScores) -> Tensor:  # (B,)
        """Ignores accuracies and groups. Raises RunError where there are more members than weights."""
        count = len(members.rewards)
        if count > len(self.weights):
            raise RunError(f"fixed: {len(self.weights)} weights for {count} members")
        weights = members.rewards.new_tensor(self.weights[:count])
        return weights @ members.rewards / weights.sum()


@dataclass(frozen=True)
class Consistent(Aggregation, under_shift="follows", under_scale="follows"):
    """sum_m w_m r_m with w_m proportional to exp(-alpha d_m / mean_k d_k), d_m = |r_m - median|, for each response.

    A member whose prediction is far from the others' counts little, however they are scaled; where all agree, or there
    are two, all count alike. At alpha = 0 it is the mean, far above 1 nearly the median.
    """

    alpha: Annotated[float, Field(ge=0, description="per mean distance from the median")] = 1.0

    def __call__(self, members: MemberScores) -> Tensor:  # (B,)
        """Ignores accuracies and groups."""
        far = (members.rewards - members.rewards.quantile(0.5, dim=0)).abs()  # (M, B)
        mean = far.mean(0).clamp(min=torch.finfo(far.dtype).eps)
        return ((-self.alpha * far / mean).softmax(0) * members.rewards).sum(0)


@dataclass(frozen=True)
class Median(Aggregation, under_shift="follows", under_scale="follows"):
    """The members' median reward, the mean of the middle two where their number is even."""

    def __call__(self, members: MemberScores) -> Tensor:  # (B,)
        """Ignores accuracies and groups; only the middle members get a gradient."""
        return members.rewards.quantile(0.5, dim=0)


@dataclass(frozen=True)
class WorstCase(Aggregation, under_shift="follows", under_scale="follows"):
    """min_m r_m (worst-case optimisation, WCO, of Coste et al. 2024)."""

    def __call__(self, members: MemberScores) -> Tensor:  # (B,)
        """Ignores accuracies and groups; only the lowest member gets a gradient."""
        return members.rewards.amin(0)


@dataclass(frozen=True)
class UncertaintyWeighted(Aggregation, under_shift="follows"):
    """r - coef 1/M sum_m (r_m - r)^2 with r the mean over members (UWO of Coste et al. 2024).

    The variance is the population's: the epistemic uncertainty of the ensemble.
    """

    coef: Annotated[float, Field(ge=0, description="reward lost per unit of the members' variance")] = 0.5

    def __call__(self, members: MemberScores) -> Tensor:  # (B,)
        """Ignores accuracies and groups."""
        return members.rewards.mean(0) - self.coef * members.rewards.var(0, correction=0)


@dataclass(frozen=True)
class Vote(Aggregation, compares_siblings=True, shares=True, under_shift="same", under_scale="same"):
    """Borda count: the share of its siblings that a response beats, averaged over members, between 0 and 1.

    Siblings are the other responses to the prompt. A tie counts one half, and so does having no siblings, which an
    ensemble refuses. For a pair it is the share of members that prefer the response, which is also the probability that
    judges and measures of calibration take, in place of sigmoid(r_a - r_b). All members count equally, whatever their
    scales. A count has no gradient, so it can aggregate trained members but cannot train them.
    """

    def __call__(self, members: MemberScores) -> Tensor:  # (B,)
        """Ignores accuracies. A reward that is NaN stays so."""
        shares = torch.full_like(members.rewards, 0.5)
        for group in members.group.unique():
            rows = (members.group == group).nonzero().squeeze(1)  # (K,)
            if len(rows) > 1:
                shares[:, rows] = _beaten(members.rewards[:, rows]).to(shares.dtype)
        return shares.masked_fill(members.rewards.isnan(), torch.nan).mean(0)


def _beaten(rewards: Tensor) -> Tensor:
    """The share of the K - 1 others that each of K responses beats, (M, K)."""
    own, other = rewards.unsqueeze(2), rewards.unsqueeze(1)
    wins = (own > other) + 0.5 * (own == other)  # (M, K, K), 0.5 against itself
    return (wins.sum(2) - 0.5) / (rewards.shape[1] - 1)


@hookimpl
def register_aggregation() -> dict[str, type]:
    """The bundled aggregations."""
    return {
        "consistent": Consistent,
        "expert": Expert,
        "fixed": Fixed,
        "mean": Mean,
        "weighted": Weighted,
        "median": Median,
        "worst_case": WorstCase,
        "uncertainty_weighted": UncertaintyWeighted,
        "vote": Vote,
    }
