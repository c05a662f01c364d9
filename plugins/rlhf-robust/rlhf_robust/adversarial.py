"""Adversarial features: every reward is as bad as a small change of the features can make it.

Two components work together: the head predicts how steeply its reward changes, the loss takes the worst case.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from rlhf_plugins import Prediction, RankedScores, RewardHead, RewardLoss, RunError, hookimpl, uses

SENSITIVITY = "sensitivity"


@dataclass(frozen=True)
class Sensitive(RewardHead, like="head"):
    """Another head, with the dimension `sensitivity`: |dr/dh|, the length of the reward's gradient in the features."""

    head: RewardHead = uses("reward_head", "scalar")

    def build(self, width: int) -> nn.Module:
        """A module from (batch, width) to a `Prediction`."""
        return _Sensitive(self.head.build(width))


class _Sensitive(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor, *columns: Any) -> Prediction:
        learning = torch.is_grad_enabled()
        with torch.enable_grad():
            given = features if features.requires_grad else features.detach().requires_grad_()
            prediction: Prediction = self.head(given, *columns)
            (slope,) = torch.autograd.grad(prediction.reward.sum(), given, create_graph=learning, retain_graph=True)
        found = {**prediction.dimensions, SENSITIVITY: slope.norm(dim=-1)}
        return replace(
            prediction if learning else _detached(prediction), dimensions=found if learning else _still(found)
        )


@dataclass(frozen=True)
class Adversarial(RewardLoss, like="loss"):
    """Another loss on r - epsilon s for a better and r + epsilon s for a worse response, s the head's `sensitivity`.

    That is the loss at the worst h + delta with |delta| <= epsilon for each response's features h, for a loss that
    falls with the gap: exact for a linear head (Goodfellow et al. 2015, section 5, there with the maximum norm), and to
    first order for another (Lyu et al. 2015).
    """

    loss: RewardLoss = uses("reward_loss", "bradley_terry")
    epsilon: Annotated[float, Field(ge=0, description="length of the change of the features; 0 is the inner loss")] = (
        0.1
    )
    dimension: Annotated[str, Field(min_length=1, description="the head's output that is s")] = SENSITIVITY

    def __post_init__(self) -> None:
        if self.loss.whole_groups or self.loss.builds:
            raise ValueError(f"loss: {self.loss.recipe_name} has weights or takes whole groups; give one of pairs")

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """A tied pair stays as it is. Raises RunError when the head does not predict the dimension."""
        slopes = scores.prediction.dimensions if scores.prediction else {}
        if self.dimension not in slopes:
            raise RunError(f"the head predicts no {self.dimension!r}: use `head: sensitive`")
        worst = torch.tensor([-1.0, 1.0]).to(scores.scores) * self.epsilon * slopes[self.dimension]
        moved = replace(scores, scores=scores.scores + worst.masked_fill(scores.tied.unsqueeze(1), 0.0))
        found: Tensor = self.loss(moved)
        return found


def _detached(prediction: Prediction) -> Prediction:
    parts: dict[str, Any] = {name: value.detach() for name, value in vars(prediction).items() if torch.is_tensor(value)}
    return replace(prediction, **parts)


def _still(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in named.items()}


@hookimpl
def register_reward_head() -> dict[str, type]:
    """The head of this file."""
    return {"sensitive": Sensitive}


@hookimpl
def register_reward_loss() -> dict[str, type]:
    """The loss of this file."""
    return {"adversarial": Adversarial}
