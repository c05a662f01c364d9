"""What scores a rollout. It knows the run's reward models and the data's gold reward, not what is done with scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.interfaces import Reward, uses
from rlhf_plugins.errors import RunError, known

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_plugins.contract.interfaces import RewardFunction, Run, Samples


@dataclass(frozen=True)
class Model:
    """A reward model or an ensemble that an earlier stage trained."""

    stage: Annotated[str | None, Field(description="the stage that trained it; null is the latest that did")] = None

    def build(self, run: Run) -> RewardFunction:
        """Raises RunError when no reward stage, or none of that name, came before."""
        from rlhf_plugins.reward_models.judges import reward_function

        folders = {result.name: result.reward_model for result in run.finished if result.reward_model}
        if not folders:
            raise RunError("reward: model needs a reward stage before this one")
        name = self.stage or list(folders)[-1]
        if name not in folders:
            raise RunError(f"reward: no earlier stage {name!r} left a reward model {known(name, folders)}")
        return reward_function(Path(folders[name]), run)


@dataclass(frozen=True)
class Gold:
    """The data's own true reward; only simulated data has one. An upper bound, never a result."""

    def build(self, run: Run) -> RewardFunction:
        """Raises RunError when the truth is unknown."""
        gold = run.data.gold
        if gold is None:
            raise RunError("reward: gold needs data whose true reward is known, such as format sandbox")

        def score(samples: Samples) -> Sequence[float]:
            return [gold(str(p), r)["total"] for p, r in zip(samples.prompts, samples.responses, strict=True)]

        return score


@dataclass(frozen=True)
class Weighted:
    """sum_i w_i r_i over several sources, each on its own scale; a weight may be negative.

    Sources that give each token a number are summed token by token, and one number for a response then stands at its
    last token.
    """

    parts: tuple[Reward, ...] = uses("reward")
    weights: Annotated[list[float] | None, Field(description="w, one a part; null is 1 for each")] = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts: at least one reward")
        if self.weights is not None and len(self.weights) != len(self.parts):
            raise ValueError(f"weights: {len(self.weights)} numbers for {len(self.parts)} parts")

    def build(self, run: Run) -> RewardFunction:
        """Raises RunError as its parts do; what it builds raises ComponentError in the name of a part that fails."""
        from rlhf_plugins.contract.guards import built, rewarded

        weights = self.weights or [1.0] * len(self.parts)
        parts = [built(part, run) for part in self.parts]

        def score(samples: Samples) -> Any:
            said = [rewarded(part, samples) for part in parts]
            return [_sum(weights, rows).tolist() for rows in zip(*said, strict=True)]

        return score


def _sum(weights: Sequence[float], rows: Sequence[Tensor]) -> Tensor:
    """sum_i w_i r_i of one response: (), or (tokens,) where a row has a number for each token."""
    from torch.nn.functional import pad

    tokens = max((len(row) for row in rows if row.dim()), default=None)
    laid = rows if tokens is None else [row if row.dim() else pad(row.view(1), (tokens - 1, 0)) for row in rows]
    total = weights[0] * laid[0]
    for weight, row in zip(weights[1:], laid[1:], strict=True):
        total = total + weight * row
    return total


@hookimpl
def register_reward() -> dict[str, type]:
    """The bundled rewards."""
    return {"gold": Gold, "model": Model, "weighted": Weighted}
