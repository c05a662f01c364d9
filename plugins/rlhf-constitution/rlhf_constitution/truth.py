"""The principle `truth`: a dimension of the data's true reward, behind as much noise as is asked for.

Only simulated data has a true reward. It takes the place of a judge of known quality, so that what a loop does with a
judge's errors can be measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Annotated

import numpy as np
from pydantic import Field

from rlhf_constitution.outcome import Ok, Outcome
from rlhf_constitution.principle import Judged, Principle, Texts
from rlhf_plugins import Run, RunError, hookimpl


@dataclass(frozen=True)
class Truth(Principle, reads_gold=True):
    """clip(g(x, y) + bias * words + noise * z, 0, 1), z ~ N(0, 1) drawn once for each prompt, response and `seed`."""

    dimension: Annotated[str, Field(min_length=1, description="of the true reward; it has to be from 0 to 1")] = (
        "harmless"
    )
    noise: Annotated[float, Field(ge=0, description="standard deviation of the judge's error")] = 0.0
    length_bias: Annotated[float, Field(description="what each word adds to the judge's value")] = 0.0
    seed: Annotated[int, Field(ge=0, description="of the noise")] = 0

    def build(self, run: Run) -> Judged:
        """Raises RunError where the data has no such true reward."""
        gold = run.data.gold
        if gold is None:
            raise RunError("principle truth: the true reward of these rows is not known; use `data: sandbox`")

        def value(prompt: str, response: str) -> float:
            dimensions = gold(prompt, response)
            if self.dimension not in dimensions:
                names = ", ".join(sorted(dimensions))
                raise RunError(f"principle truth: no dimension {self.dimension!r} (known: {names})")
            return dimensions[self.dimension]

        def judge(prompts: Texts, responses: Texts) -> list[Outcome]:
            return [self.outcome(*pair, value(*pair), value) for pair in zip(prompts, responses, strict=True)]

        return judge

    def outcome(self, prompt: str, response: str, true: float, value: Callable[[str, str], float]) -> Outcome:
        """The noisy value, and the sentence whose loss would raise the true one most."""
        noisy = true + self.length_bias * len(response.split()) + self.noise * self.draw(prompt, response)
        shown = min(1.0, max(0.0, noisy))
        if shown == 1.0:
            return Ok(1.0)
        gains = {part: value(prompt, response.replace(part, "", 1)) - true for part in sentences(response)}
        worst = max(gains, key=gains.__getitem__, default="")
        where = worst if gains.get(worst, 0.0) > 0 else ""
        return Ok(shown, why=f"it is {shown:.2f} {self.dimension}", where=where, fix="leave it out" if where else "")

    def draw(self, prompt: str, response: str) -> float:
        """A standard normal number that follows from the content."""
        content = f"{self.seed}\0{self.dimension}\0{prompt}\0{response}".encode()
        return float(np.random.default_rng(list(blake2b(content, digest_size=16).digest())).normal())

    def fresh(self, draw: int) -> Truth:
        """With other noise."""
        return replace(self, seed=self.seed + draw)


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with its mark at the end."""
    return [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]


@hookimpl
def register_components() -> dict[str, dict[str, type]]:
    """The principle of this file."""
    return {"principle": {"truth": Truth}}
