"""The judge `drawn`: a simulated annotator of the sandbox, who answers each question once and may be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import exp
from random import Random
from typing import Any

from rlhf_plugins import Judge, Run, RunError, Verdict, hookimpl


@dataclass(frozen=True)
class Drawn(Judge):
    """Prefers the first response with probability sigmoid((g_1 - g_2) / temperature), g the true reward."""

    temperature: float = 0.3

    def build(self, run: Run) -> Any:
        """Raises RunError where the true reward is unknown."""
        gold = run.data.gold
        if gold is None:
            raise RunError("judge drawn: needs data whose true reward is known, such as format sandbox")

        def prefers(prompt: Any, first: str, second: str) -> bool:
            gap = gold(prompt, first)["total"] - gold(prompt, second)["total"]
            seed = blake2b(f"{run.seed}\n{prompt}\n{first}\n{second}".encode()).digest()
            return Random(seed).random() < 1 / (1 + exp(-gap / self.temperature))

        def judge(prompts: Sequence[Any], first: Sequence[str], second: Sequence[str]) -> list[Verdict]:
            return [Verdict(float(prefers(*row))) for row in zip(prompts, first, second, strict=True)]

        return judge


@hookimpl
def register_judge() -> dict[str, type]:
    """The judge of this file."""
    return {"drawn": Drawn}
