"""Scores many responses with a constitution, each principle bound once to the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rlhf_constitution.asking import Asker
from rlhf_constitution.constitution import Constitution, Scored
from rlhf_constitution.principle import bound
from rlhf_constitution.texts import Text
from rlhf_plugins import Run, Section


class Scorer:
    """A constitution bound to a run. Raises RunError where the run lacks what it needs, such as a server."""

    def __init__(self, constitution: Constitution, run: Run | None, asker: Asker | None = None) -> None:
        self.constitution, self.run, self.asker = constitution, run, asker
        if constitution.assistant is not None and run is not None and asker is None:
            self.asker = Asker.of(constitution.assistant, run)
        self.principles = {one.name: bound(one, run, self.asker) for one in constitution.principles}

    def __call__(self, prompts: Sequence[Text], responses: Sequence[Text]) -> list[Scored]:
        """Each response scored."""
        found = {name: judge(prompts, responses) for name, judge in self.principles.items()}
        rows = [{name: outcomes[place] for name, outcomes in found.items()} for place in range(len(responses))]
        return [self.constitution.judge(row) for row in rows]

    def again(self, draw: int) -> Scorer:
        """The same constitution with the noise of its judges drawn again, within the same budget."""
        fresh = tuple(one.fresh(draw) for one in self.constitution.principles)
        return Scorer(replace(self.constitution, principles=fresh), self.run, self.asker)

    def sections(self) -> list[Section]:
        """What was asked of the assistant so far, for the report; nothing where there is none."""
        if self.asker is None:
            return []
        ledger = self.asker.ledger
        spent = {
            "calls": ledger.calls,
            "tokens, at most": ledger.tokens,
            "answers from the cache": self.asker.hits,
            "failures": self.asker.failures,
        }
        return [Section("Asked of the assistant", f"Within {ledger.budget}.", [spent])]
