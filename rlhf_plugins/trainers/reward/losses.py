"""A reward loss as a training computes it: built once, or once for each member of an ensemble of heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_plugins.arithmetic.ranking import per_group
from rlhf_plugins.contract.interfaces import RewardLoss
from rlhf_plugins.contract.records import RankedScores


class Losses:
    """What acts of a loss. What a built one remembers is of one member's rewards, so that each member has its own.

    Args:
        loss: the component.
        members: the members of the head.
        install: puts a module under a name into the model that is trained, and returns what is trained there.
    """

    def __init__(self, loss: RewardLoss, members: int, install: Callable[[str, nn.Module], nn.Module]) -> None:
        self.acts: list[Any] = [loss.acting() for _ in range(members if loss.builds else 1)]
        self.names = ["loss", *(f"loss_{member}" for member in range(1, len(self.acts)))]
        for place, (name, made) in enumerate(zip(self.names, self.acts, strict=True)):
            if isinstance(made, nn.Module):
                self.acts[place] = install(name, made)

    def of_members(self, scores: RankedScores) -> Tensor:
        """The loss of each group and member of an ensemble, (groups, M)."""
        assert scores.prediction is not None
        count = scores.prediction.members.shape[-1]  # type: ignore[union-attr]
        acts = self.acts * count if len(self.acts) == 1 else self.acts
        return torch.stack([per_group(acts[m], member(scores, m)) for m in range(count)], 1)

    def of_rewards(self, scores: RankedScores) -> Tensor:
        """The loss of each group by its rewards, (groups,): the mean of what those of the members say."""
        first, *others = [per_group(each, scores) for each in self.acts]
        return torch.stack([first, *others]).mean(0) if others else first

    def stateful(self) -> dict[str, Any]:
        """The losses whose state is not in the model, by name."""
        named = zip(self.names, self.acts, strict=True)
        return {name: made for name, made in named if not isinstance(made, nn.Module)}


def member(scores: RankedScores, m: int) -> RankedScores:
    """What the loss sees of one member of an ensemble."""
    assert scores.prediction is not None
    whole, rewards = scores.prediction, scores.prediction.members[..., m]  # type: ignore[index]
    own = whole.each[m] if whole.each else whole
    prediction = replace(own, reward=rewards, features=whole.features, members=None, each=())
    return replace(scores, scores=rewards, prediction=prediction)
