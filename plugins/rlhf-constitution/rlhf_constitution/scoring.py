"""Scores many responses with a constitution, each principle bound once to the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rlhf_constitution.constitution import Constitution, Scored
from rlhf_constitution.principle import bound
from rlhf_plugins import Run


class Scorer:
    """A constitution bound to a run. Raises RunError where the run lacks what a principle needs."""

    def __init__(self, constitution: Constitution, run: Run | None) -> None:
        self.constitution, self.run = constitution, run
        self.principles = {one.name: bound(one, run) for one in constitution.principles}

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Scored]:
        """Each response scored."""
        found = {name: judge(prompts, responses) for name, judge in self.principles.items()}
        rows = [{name: outcomes[place] for name, outcomes in found.items()} for place in range(len(responses))]
        return [self.constitution.judge(row) for row in rows]

    def again(self, draw: int) -> Scorer:
        """The same constitution with the noise of its judges drawn again."""
        fresh = tuple(one.fresh(draw) for one in self.constitution.principles)
        return Scorer(replace(self.constitution, principles=fresh), self.run)
