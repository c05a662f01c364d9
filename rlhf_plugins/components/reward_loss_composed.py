"""Losses of reward models that are made of other losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from rlhf_plugins.arithmetic.ranking import NOT_PLACED, comparisons, map_tensors, mean_over_pairs, per_group
from rlhf_plugins.contract.component import one_for_each, uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import RewardLoss
from rlhf_plugins.contract.records import Compared, Prediction, RankedScores
from rlhf_plugins.errors import RunError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_plugins.contract.rows import Group

Weights = list[Annotated[float, Field(ge=0)]]


class _Composed(RewardLoss):
    """A loss of the losses in the fields that it takes its traits from."""

    def build(self) -> nn.Module:
        """The weights of its parts, if they have any."""
        return _Built(_acting(self))


@dataclass(frozen=True)
class Weighted(_Composed, like="loss"):
    """w_i times another loss. A group of pairs has the mean of its weighted pairs; weights are not normalised.

    `weight`: the row's own, such as the annotators' agreement. `margin`: the strength of the preference, 1 where a row
    has none (Wang et al. 2024, HelpSteer2-Preference, scaled Bradley-Terry). `difficulty`: what the model finds
    unlikely, |p - sigmoid(d)| of a pair with the soft label p (1 where it is certain) and |tanh(d / 2)| of a tied one,
    held constant in the gradient (the focal weight of Lin et al. 2017 with gamma = 1). A whole group has the mean of
    its untied comparisons; where it has none, its row's own weight or margin, and a difficulty of 1.
    """

    loss: RewardLoss = uses("reward_loss", "bradley_terry")
    by: Annotated[Literal["weight", "margin", "difficulty"], Field(description="what w_i is")] = "weight"

    def needs_of(self) -> frozenset[str]:
        """The column that it weighs by, and what the weighted loss needs."""
        return super().needs_of() | ({self.by} - {"difficulty"})

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Pairs or whole groups, as the weighted loss has it."""
        return self._weights(scores).detach() * self.loss(scores)

    def _weights(self, scores: RankedScores) -> Tensor:
        of = {"weight": _weight, "margin": _strength, "difficulty": _difficulty}[self.by]
        if not self.whole_groups:
            return of(scores)
        own = torch.ones_like(scores.margin) if self.by == "difficulty" else of(scores)
        return mean_over_pairs(of, scores).where(_has(comparisons(scores), scores), own)


@dataclass(frozen=True)
class Sum(_Composed, like="losses", whole_groups=True):
    """sum_k w_k L_k, each part seeing the group as it would alone."""

    losses: tuple[RewardLoss, ...] = uses("reward_loss", ["bradley_terry", "centering"])
    weights: Annotated[Weights, Field(description="w, one for each loss")] = field(default_factory=lambda: [1.0, 0.01])

    def __post_init__(self) -> None:
        if not self.losses:
            raise ValueError("losses: at least one")
        one_for_each(self.weights, self.losses, "losses")

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Raises what its parts raise."""
        parts = zip(self.weights, self.losses, strict=True)
        return torch.stack([weight * per_group(loss, scores) for weight, loss in parts]).sum(0)


@dataclass(frozen=True)
class _Tasks(_Composed, like="losses", whole_groups=True, needs=()):
    dimensions: Annotated[list[str], Field(description="outputs of the head, one a task")]
    losses: tuple[RewardLoss, ...] = uses("reward_loss", ["bradley_terry"])

    def __post_init__(self) -> None:
        if not self.dimensions or len(set(self.dimensions)) != len(self.dimensions):
            raise ValueError(f"dimensions should name at least one, each once; got {self.dimensions}")
        self._spread("losses", self.losses)

    def needs_of(self) -> frozenset[str]:
        """Nothing: a task is judged by the ratings of its dimension, or else by ranks and comparisons."""
        return frozenset()

    def learns_from(self, group: Group) -> bool:
        """Ratings rank for a task, so that any rated or compared group is of use."""
        rated = any(value is not None for values in group.ratings.values() for value in values)
        return rated or bool(group.comparisons)

    def tasks(self, scores: RankedScores) -> tuple[Tensor, Tensor]:
        """Each task's loss and whether anything is known of it, both (tasks, groups)."""
        pairs = zip(self.dimensions, self._spread("losses", self.losses), strict=True)
        tasks = [(loss, _task(scores, name)) for name, loss in pairs]
        losses = torch.stack([per_group(loss, task) for loss, task in tasks])
        return losses, torch.stack([_judged(task) for _, task in tasks])

    def _spread(self, name: str, values: Sequence[Any]) -> Sequence[Any]:
        if len(values) not in (1, len(self.dimensions)):
            raise ValueError(f"{len(values)} {name} for {len(self.dimensions)} dimensions: give one, or one each")
        return list(values) * (len(self.dimensions) // len(values))


@dataclass(frozen=True)
class MultiTask(_Tasks):
    """sum_k w_k L_k over named dimensions of the head: each task's reward is its dimension alone.

    A task is judged by the ratings of its dimension: the higher is better, equal ones tie, a response without one is
    not placed, and the margin of a pair is the gap of its ratings. A group that nobody rated in a dimension is judged
    by its own ranks and comparisons. `losses` and `weights` are one for all dimensions, or one each.
    """

    weights: Annotated[Weights, Field(description="w, one for all or one each")] = field(default_factory=lambda: [1.0])

    def __post_init__(self) -> None:
        super().__post_init__()
        self._spread("weights", self.weights)

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Raises RunError when the head lacks a dimension."""
        losses = self.tasks(scores)[0]
        return losses.new_tensor(self._spread("weights", self.weights)) @ losses


@dataclass(frozen=True)
class MultiTaskUncertainty(_Tasks):
    """sum_k exp(-s_k) L_k + s_k over dimensions as `multi_task` has them, with s_k = log sigma_k^2 learned, 0 at first.

    Twice the loss of Kendall et al. 2018 for regression, L_k / (2 sigma_k^2) + log sigma_k. At its least,
    exp(s_k) is the mean of L_k. A group of which a task knows nothing adds nothing of that task, neither L_k nor s_k.
    """

    def build(self) -> nn.Module:
        """A module from RankedScores to (groups,) that holds s."""
        return _Uncertain(_acting(self))


class _Built(nn.Module):
    """A loss of losses whose parts are built: computes what it does, and holds their weights."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.acts = loss
        self.built = nn.ModuleList(part for part in loss.held() if isinstance(part, nn.Module))

    def forward(self, scores: RankedScores) -> Tensor:
        """-> (groups,)."""
        return self.acts(scores)


class _Uncertain(_Built):
    def __init__(self, loss: _Tasks) -> None:
        super().__init__(loss)
        self.log_variance = nn.Parameter(torch.zeros(len(loss.dimensions)))

    def forward(self, scores: RankedScores) -> Tensor:
        losses, judged = self.acts.tasks(scores)  # (tasks, groups)
        s = self.log_variance.unsqueeze(1)
        return ((-s).exp() * losses + s).masked_fill(~judged, 0.0).sum(0)


# ---- shared ----------------------------------------------------------------------------------------------
def _acting(loss: Any) -> Any:
    """The loss with its parts built."""
    parts = {name: getattr(loss, name) for name in loss.like}
    acting = {k: tuple(one.acting() for one in v) if isinstance(v, tuple) else v.acting() for k, v in parts.items()}
    return replace(loss, **acting)


def _weight(scores: RankedScores) -> Tensor:  # (groups,)
    return scores.weight


def _strength(scores: RankedScores) -> Tensor:  # (groups,)
    return scores.margin.where(scores.margin > 0, 1.0)


def _difficulty(scores: RankedScores) -> Tensor:  # (pairs,)
    gap = scores.chosen - scores.rejected
    missed = ((-gap).sigmoid() - (1 - scores.probability)).abs()  # exact where p is 1 and sigmoid(d) is near it
    return (gap / 2).tanh().abs().where(scores.tied, missed)


def _has(compared: Compared, scores: RankedScores) -> Tensor:
    """Whether one of the comparisons is a group's, (groups,) bool."""
    found = torch.zeros_like(scores.present[:, 0])
    found[compared.group] = True
    return found


def _task(scores: RankedScores, name: str) -> RankedScores:
    """One dimension of the head as the reward, with the labels of that dimension.

    The prediction keeps the features; variance and quantiles are left out, since they are the reward's.
    """
    found = scores.prediction
    if found is None or name not in found.dimensions:
        names = nearest(name, found.dimensions if found else ())
        raise RunError(f"the head predicts no dimension {name!r}: use one that does, such as multi {names}")
    reward = found.dimensions[name]
    prediction = Prediction(reward, dimensions={name: reward}, features=found.features)
    compared, ranks = comparisons(scores, ties=True), scores.ranks
    rating = scores.ratings.get(name)
    if rating is not None:
        compared, ranks = _by_rating(scores, compared, rating)
    ratings = {} if rating is None else {name: rating}
    return replace(scores, scores=reward, ranks=ranks, ratings=ratings, compared=compared, prediction=prediction)


def _by_rating(scores: RankedScores, compared: Compared, rating: Tensor) -> tuple[Compared, Tensor]:
    """Comparisons and ranks by the rating in groups that have any, as they were in the others."""
    placed = scores.present & ~rating.isnan()
    above = (rating.unsqueeze(1) > rating.unsqueeze(2)) & placed.unsqueeze(1)  # (groups, K, K): j is above i
    ranks = above.sum(2).masked_fill(~placed, NOT_PLACED)
    certain = torch.ones_like(scores.probability)
    found = comparisons(replace(scores, ranks=ranks, compared=None, probability=certain), ties=True)
    found = replace(found, margin=rating[found.group, found.better] - rating[found.group, found.worse])
    rated = placed.any(1)
    kept = map_tensors(compared, lambda values: values[~rated[compared.group]])
    joined = Compared(*(torch.cat([getattr(found, f.name), getattr(kept, f.name)]) for f in fields(Compared)))
    return joined, ranks.where(rated.unsqueeze(1), scores.ranks)


def _judged(task: RankedScores) -> Tensor:
    """Whether a group has a comparison or a rating, (groups,) bool."""
    assert task.compared is not None
    judged = _has(task.compared, task)
    for rating in task.ratings.values():
        judged = judged | (task.present & ~rating.isnan()).any(1)
    return judged


@hookimpl
def register_reward_loss() -> dict[str, type]:
    """The bundled losses of reward models that are made of others."""
    return {
        "multi_task": MultiTask,
        "multi_task_uncertainty": MultiTaskUncertainty,
        "sum": Sum,
        "weighted": Weighted,
    }
