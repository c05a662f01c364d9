"""What scores a rollout. It knows the run's reward model and the data's gold reward, not what is done with scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_plugins.errors import RunError
from rlhf_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from rlhf_plugins.interfaces import RewardFunction, Run, Samples


@dataclass(frozen=True)
class Model:
    """The reward model that the latest reward stage before this one trained."""

    def build(self, run: Run) -> RewardFunction:
        """Raises RunError when no reward stage came before."""
        from rlhf_plugins.models.judges import latest_reward

        reward = latest_reward(run)
        if reward is None:
            raise RunError("reward: model needs a reward stage before this one")
        return reward


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


@hookimpl
def register_reward() -> dict[str, type]:
    """The bundled rewards."""
    return {"gold": Gold, "model": Model}
