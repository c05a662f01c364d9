"""A head whose second output takes up what length explains, and its loss (Chen et al. 2024, ODIN)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from rlhf_plugins import Prediction, RankedScores, RewardHead, RewardLoss, RunError, hookimpl, uses

LENGTH = "length"  # the head's second output, and the rating that holds words of a response


@dataclass(frozen=True)
class TwoHeads(RewardHead):
    """The reward w_q h, and the dimension `length`, w_l h; both linear without a bias."""

    def build(self, width: int) -> nn.Module:
        """A module from (batch, width) to a `Prediction`."""
        return _TwoHeads(width)


class _TwoHeads(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.quality, self.length = (nn.Linear(width, 1, bias=False) for _ in range(2))
        for part in (self.quality, self.length):
            nn.init.normal_(part.weight, std=(width + 1) ** -0.5)

    def forward(self, features: Tensor) -> Prediction:
        return Prediction(self.quality(features)[..., 0], dimensions={LENGTH: self.length(features)[..., 0]})


@dataclass(frozen=True)
class LengthFree(RewardLoss, like="loss", needs={"ratings"}, uses_batch_mates=True, holds_constant=True):
    """Another loss on r + l, plus c (|rho(r, L)| - rho(l, L)), rho over the responses of a batch and L their words.

    r is the reward, l the head's output `length`: l learns what goes with length, r what does not. The two weights are
    not held orthogonal as in ODIN, since a loss sees outputs alone.
    """

    loss: RewardLoss = uses("reward_loss", "bradley_terry")
    correlation: Annotated[float, Field(ge=0, description="c")] = 1.0
    dimension: Annotated[str, Field(min_length=1, description="the head's output that is l")] = LENGTH
    rating: Annotated[str, Field(min_length=1, description="the rating that holds L")] = LENGTH

    def __post_init__(self) -> None:
        if self.loss.whole_groups or self.loss.builds:
            raise ValueError(f"loss: {self.loss.recipe_name} has weights or takes whole groups; give one of pairs")

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Raises RunError where the head has no output for length, or the rows no lengths."""
        outputs = scores.prediction.dimensions if scores.prediction else {}
        if self.dimension not in outputs or self.rating not in scores.ratings:
            raise RunError(
                "length_free needs `head: two_heads`, and lengths: `data: {format: with_lengths, rows: ...}`"
            )
        longer, lengths = outputs[self.dimension], scores.ratings[self.rating].to(scores.scores)  # (groups, K)
        known = scores.present & ~lengths.isnan()
        found: Tensor = self.loss(replace(scores, scores=scores.scores + longer))
        apart = correlation(scores.scores[known], lengths[known]).abs()
        return found + self.correlation * (apart - correlation(longer[known], lengths[known]))


def correlation(ours: Tensor, theirs: Tensor) -> Tensor:
    """Pearson's, a scalar; 0 where one of them does not vary."""
    ours, theirs = _centred(ours), _centred(theirs)
    return (ours * theirs).sum() / ((ours**2).sum() * (theirs**2).sum() + 1e-12).sqrt()


def _centred(values: Tensor) -> Tensor:
    """Less their mean, and at most about 1, so that no square overflows."""
    if not values.numel():
        return values
    size = values.detach().abs().max().clamp(min=1e-12)
    scaled = values / size
    return scaled - scaled.mean()


@hookimpl
def register_reward_head() -> dict[str, type[RewardHead]]:
    """The head of this file."""
    return {"two_heads": TwoHeads}


@hookimpl
def register_reward_loss() -> dict[str, Any]:
    """The loss of this file."""
    return {"length_free": LengthFree}
