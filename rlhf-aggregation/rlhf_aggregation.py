"""An aggregation: the rewards of an ensemble's members in, one reward out."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Annotated

from pydantic import Field
from torch import Tensor

from rlhf_plugins import MemberScores, hookimpl


@dataclass(frozen=True)
class Aggregation:
    """-t log(1/M sum_m exp(-r_m / t)), between the mean and the least reward (say here where yours comes from)."""

    temperature: Annotated[float, Field(gt=0, description="t; towards 0 it is the least reward")] = 1.0

    def __call__(self, members: MemberScores) -> Tensor:  # (B,)
        t, count = self.temperature, len(members.rewards)
        return -t * ((-members.rewards / t).logsumexp(0) - log(count))


@hookimpl
def register_aggregation() -> dict[str, type]:
    return {"aggregation": Aggregation}
