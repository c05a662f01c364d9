"""A metric of reward models: scored pairs in, named numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from rlhf_plugins import ScoredPairs, hookimpl


@dataclass(frozen=True)
class Metric:
    """The share of pairs with r_chosen - r_rejected > gap (say here where yours comes from)."""

    gap: Annotated[float, Field(ge=0, description="how clearly a pair must be ordered")] = 0.5

    def __call__(self, pairs: ScoredPairs) -> dict[str, float]:
        return {"metric": float((pairs.chosen - pairs.rejected > self.gap).mean())}


@hookimpl
def register_metric() -> dict[str, type]:
    return {"metric": Metric}
