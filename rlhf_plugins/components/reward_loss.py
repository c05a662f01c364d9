"""Losses of reward models: arithmetic on the rewards of groups, one number a group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from torch.nn.functional import logsigmoid

from rlhf_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_plugins.interfaces import RankedScores


@dataclass(frozen=True)
class BradleyTerry:
    """-log sigmoid(r_chosen - r_rejected) (Bradley and Terry 1952; Ouyang et al. 2022, equation 1)."""

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Ignores margins."""
        return -logsigmoid(scores.chosen - scores.rejected)


@dataclass(frozen=True)
class BradleyTerryMargin:
    """-log sigmoid(r_chosen - r_rejected - m) with m the row's own margin (Touvron et al. 2023, equation 2)."""

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """A row without a margin has m = 0."""
        return -logsigmoid(scores.chosen - scores.rejected - scores.margin)


@dataclass(frozen=True)
class Margin:
    """max(0, m - (r_chosen - r_rejected)), the hinge of a support vector machine that ranks (Joachims 2002)."""

    margin: Annotated[float, Field(gt=0, description="m, the gap beyond which a pair costs nothing")] = 1.0

    def __call__(self, scores: RankedScores) -> Tensor:  # (groups,)
        """Ignores the rows' own margins."""
        return (self.margin - (scores.chosen - scores.rejected)).clamp(min=0)


@hookimpl
def register_reward_loss() -> dict[str, type]:
    """The bundled losses of reward models."""
    return {"bradley_terry": BradleyTerry, "bradley_terry_margin": BradleyTerryMargin, "margin": Margin}
