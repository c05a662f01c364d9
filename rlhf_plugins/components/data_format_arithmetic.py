"""Word problems of the sandbox with their answers. It names their options; the problems are the sandbox's."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.rows import Data, Group, Origin
from rlhf_plugins.contract.run_kinds import DataFormat
from rlhf_plugins.errors import DataError
from rlhf_plugins.sandbox.arithmetic import Problem, attempt, problems

if TYPE_CHECKING:
    from rlhf_plugins.contract.run import Base


@dataclass(frozen=True)
class Arithmetic(DataFormat):
    """Word problems of two steps, generated, in the manner of GSM8K: the column `answer` is what `number_match` reads.

    Beside each prompt there is one worked solution, for `sft`. The base `sandbox_arithmetic` knows the words; held-out
    problems of both kinds are in none of its texts, or in forms that no training prompt has.
    """

    prompts: Annotated[int, Field(ge=1, description="training prompts")] = 1000
    test_prompts: Annotated[int, Field(ge=1, description="held-out prompts of each kind")] = 256
    care: Annotated[
        float, Field(ge=0, le=1, description="of who solves: 1 works each one out and slips now and then, 0 guesses")
    ] = 1.0

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError where there are not so many problems."""
        counts = {"train": self.prompts, "test": self.test_prompts, "out_of_distribution": self.test_prompts}
        found = {split: _first(split, count) for split, count in counts.items()}
        rng = random.Random(seed)
        solved = {split: tuple(self._solved(p, row, rng) for row, p in enumerate(of, 1)) for split, of in found.items()}
        asked = {split: tuple(_asked(problem, row) for row, problem in enumerate(of, 1)) for split, of in found.items()}
        return Data(solved["train"], solved["test"], asked, out_of_distribution=solved["out_of_distribution"])

    def at_hand(self) -> bool:
        """Nothing but arithmetic makes them."""
        return True

    def known_gold(self) -> bool:
        """The answers are known, a reward of any other response is not."""
        return False

    def known_columns(self) -> frozenset[str]:
        """None that a loss reads."""
        return frozenset()

    def _solved(self, problem: Problem, row: int, rng: random.Random) -> Group:
        asked = _asked(problem, row)
        response = attempt(problem, rng, self.care)
        return Group(asked.prompt, (response,), columns=asked.columns, origin=asked.origin)


def _asked(problem: Problem, row: int) -> Group:
    return Group(problem.prompt, columns={"answer": problem.answer}, origin=Origin("arithmetic", row))


def _first(split: str, count: int) -> tuple[Problem, ...]:
    known = problems(split)
    if count > len(known):
        raise DataError(f"the sandbox's arithmetic has {len(known)} {split} problems, {count} were asked for")
    return known[:count]


@hookimpl
def register_data_format() -> dict[str, type]:
    """The format of this file."""
    return {"arithmetic": Arithmetic}
