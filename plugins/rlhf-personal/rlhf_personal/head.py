"""The head `personal`: a few rewards that all users share, and how much each of them counts for each user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from rlhf_plugins import DataError, Prediction, RewardHead, Samples, hookimpl

USER = "user"  # the column with a user's number
NOBODY = -1  # the number of a user without a row in the table, who has the shared weights
START = 0.1  # deviation of delta at first: at 0, users who are each other's opposites would learn nothing
BASIS = "basis_"  # begins the names of the shared rewards among the dimensions


@dataclass(frozen=True)
class Personal(RewardHead, columns={USER}):
    """r_u(x, y) = w_u . phi(x, y) with phi = B h of `rank` numbers and w_u = w + delta_u.

    The basis B is linear in the features h without a bias, w is shared, and delta_u starts near 0 (Bose et al. 2025,
    equation 2, whose weights are on the simplex; here they are free). The column `user` holds u from 0, or -1 for a
    user who is not in the table. phi is among the dimensions, as `basis_0` and so on.
    """

    users: Annotated[int, Field(ge=1, description="rows of the table of delta_u")]
    rank: Annotated[int, Field(ge=1, description="numbers of phi")] = 8

    def build(self, width: int) -> nn.Module:
        """A module from (batch, width) features and (batch,) users to a `Prediction` with dimensions."""
        return Table(width, self.users, self.rank)

    def examples(self, rows: int) -> Mapping[str, Tensor]:
        """The users in turn."""
        return {USER: torch.arange(rows).float() % self.users}


class Table(nn.Module):
    """The basis, the shared weights and the table of users."""

    def __init__(self, width: int, users: int, rank: int) -> None:
        super().__init__()
        self.basis = nn.Linear(width, rank, bias=False)
        nn.init.normal_(self.basis.weight, std=(width + 1) ** -0.5)
        self.shared = nn.Parameter(torch.full((rank,), rank**-0.5))
        self.shift = nn.Parameter(START * torch.randn(users, rank))

    def forward(self, features: Tensor, columns: Mapping[str, Tensor]) -> Prediction:
        """Raises DataError for a user who is not in the table."""
        phi = self.basis(features)  # (batch, rank)
        named = {f"{BASIS}{k}": values for k, values in enumerate(phi.unbind(-1))}
        return Prediction((phi * self.weights(columns[USER])).sum(-1), dimensions=named)

    def weights(self, users: Tensor) -> Tensor:
        """w_u of users (batch,), (batch, rank). Raises DataError as `forward` does."""
        count, numbers = len(self.shift), users.long()
        if (wrong := (numbers != users) | (numbers < NOBODY) | (numbers >= count)).any():
            asked = users[wrong][0].item()
            raise DataError(f"user {asked:g}: the head `personal` has users 0 to {count - 1}, and -1 for any other")
        known = (numbers != NOBODY).unsqueeze(-1)
        return self.shared + self.shift[numbers.clamp(min=0)] * known


def phi(prediction: Prediction) -> Tensor:
    """The shared rewards of responses, (B, rank)."""
    names = [name for name in prediction.dimensions if name.startswith(BASIS)]
    return torch.stack([prediction.dimensions[name] for name in names], -1)


def of_nobody(samples: Samples) -> Samples:
    """The samples of a user who is not in the table."""
    return replace(samples, columns={**samples.columns, USER: [NOBODY] * len(samples.responses)})


@hookimpl
def register_reward_head() -> dict[str, type]:
    """The head of this file."""
    return {"personal": Personal}
