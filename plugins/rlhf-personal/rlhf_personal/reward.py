"""The reward `personal`: that of one new user, from a few of their judgements and what others have trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_personal.adapting import likely
from rlhf_personal.cold_start import Prior, most_likely
from rlhf_personal.head import Table, of_nobody, phi
from rlhf_plugins import DataFormat, Group, Prediction, Reward, Run, RunError, Samples, hookimpl, strict_pairs, uses


@dataclass(frozen=True)
class OneUser(Reward):
    """w . phi(x, y), phi of a reward model with the head `personal`, w fitted to one user's judgements.

    w maximises the likelihood of the judgements (Bradley and Terry 1952) under a normal prior with the mean and the
    covariance of the weights in the model's table. Nothing of the model is trained. All training rows of `judgements`
    are taken as this user's; without any, w is the mean. Of a stage `adapters` it is the reward model with theta_meta +
    delta, delta fitted to the judgements as the stage fits those of its users.
    """

    judgements: DataFormat = uses("data_format", tag="format")
    reward: Reward = uses("reward", "model")

    def build(self, run: Run) -> Any:
        """Raises RunError where the reward is neither a model with the head `personal` nor of a stage `adapters`."""
        model: Any = self.reward.build(run)
        if hasattr(model, "of_one"):
            return model.of_one(self.judgements.load_in(run).train)
        table = getattr(getattr(model, "module", None), "head", None)
        if not isinstance(table, Table):
            raise RunError(
                "reward personal: needs a reward model that was trained with `head: personal`, or a stage `adapters`"
            )
        prior = Prior.of_users((table.shared + table.shift).detach().cpu())
        judged = strict_pairs(self.judgements.load_in(run).train)
        weights = most_likely(differences(model, judged), prior, likely(judged))

        def score(samples: Samples) -> Prediction:
            found = model(of_nobody(samples))
            return Prediction(phi(found) @ weights, dimensions=found.dimensions, features=found.features)

        return score


def differences(model: Any, groups: Sequence[Group]) -> Tensor:
    """phi of the better response less phi of the worse, (n, rank), of every strict comparison of the groups."""
    pairs = strict_pairs(groups)
    if not pairs:
        return torch.zeros(0, model.module.head.basis.out_features)
    better, worse = (
        phi(model.predict(of_nobody(model.encode(pairs, [pair.responses[place] for pair in pairs]))))
        for place in (0, 1)
    )
    return better - worse


@hookimpl
def register_reward() -> dict[str, type]:
    """The reward of this file."""
    return {"personal": OneUser}
