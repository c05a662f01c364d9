"""A reward: sampled responses in, one number each out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from rlhf_plugins import Run, Samples, hookimpl


@dataclass(frozen=True)
class Reward:
    """-|n - words| / words for a response of n words (say here where yours comes from)."""

    words: Annotated[int, Field(ge=1, description="the length that is wanted")] = 20

    def build(self, run: Run) -> object:
        def score(samples: Samples) -> Sequence[float]:
            return [-abs(len(response.split()) - self.words) / self.words for response in samples.responses]

        return score


@hookimpl
def register_reward() -> dict[str, type]:
    return {"reward": Reward}
