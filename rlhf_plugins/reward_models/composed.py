"""A reward that is computed of other rewards, and keeps the state of those that have one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from rlhf_plugins.contract.records import Prediction
    from rlhf_plugins.contract.rows import Samples
    from rlhf_plugins.reward_models.handle import Predict, RewardHandle


@dataclass(frozen=True)
class Composed:
    """What a reward with parts builds.

    Args:
        function: scores responses by its parts.
        parts: the rewards that it asks.
    """

    function: Predict
    parts: Sequence[RewardHandle]

    def __call__(self, samples: Samples) -> Prediction:
        """Calls the function."""
        return self.function(samples)

    @property
    def compares(self) -> str:
        """See `RewardHandle`: the answer of the first part that has one."""
        return next((part.compares for part in self.parts if part.compares), "")

    def state_dict(self) -> dict[str, Any]:
        """The states of the parts that have one, by number."""
        return {str(place): part.state_dict() for place, part in enumerate(self.parts) if has_state(part)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        for place, own in state.items():
            self.parts[int(place)].load_state_dict(own)


def has_state(part: Any) -> bool:
    """Whether a part of a training has a state; a reward that is a model has none, since it is not trained."""
    return hasattr(part, "state_dict") and not isinstance(getattr(part, "function", None), nn.Module)
