"""The judge `people`: pairs become items of a study, and the judge waits until people have answered them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rlhf_plugins import Judge, OnDisk, Run, RunError, Verdict, hookimpl

if TYPE_CHECKING:
    from rlhf_collect.study import Study

logger = logging.getLogger(__name__)
NOT_AN_ITEM = Verdict(None, "failed", "a pair that no item can hold: two equal texts, or characters that are none")
NO_VOTE = Verdict(None, "abstained", "no vote counts: people are paused, or were shown a label before")
Pair = tuple[Any, str, str]


@dataclass(frozen=True)
class People(Judge):
    """The share of the votes for the first response, a tie half a vote, once an item has all of its votes.

    A pair that the study holds already is not asked again: a run that was killed goes on with the answers that were
    given meanwhile.
    """

    study: Annotated[str, OnDisk(), Field(min_length=1, description="the folder of a study of pairs")]
    poll: Annotated[float, Field(gt=0, description="seconds between two looks at it")] = 5.0

    def missing(self) -> dict[str, str]:
        """The study, where its folder holds none."""
        from rlhf_collect.study import holds_study

        there = holds_study(Path(self.study).expanduser())
        return {} if there else {"study": f"{self.study}: holds no study"}

    def build(self, run: Run) -> Any:
        """Raises RunError where the study is of another kind, a prompt is no text, or the run is to end."""

        def judge(prompts: Sequence[Any], first: Sequence[str], second: Sequence[str]) -> list[Verdict]:
            from rlhf_collect.study import open_study

            if any(not isinstance(prompt, str) for prompt in prompts):
                raise RunError("judge people: people are shown texts, and a prompt is messages")
            study = open_study(Path(self.study).expanduser())
            try:
                return self._judged(run, study, list(zip(prompts, first, second, strict=True)))
            finally:
                study.close()

        return judge

    def _judged(self, run: Run, study: Study, pairs: Sequence[Pair]) -> list[Verdict]:
        from rlhf_collect.store.answered import items_of, open_items, shares

        if study.kind.name != "pair":
            raise RunError(f"judge people: {self.study} asks for a {study.kind.name}, not which of two is better")
        known = items_of(study, pairs)
        wanted = {item for item, _ in filter(None, known)}
        while left := open_items(study, wanted):
            if run.stopped():
                raise RunError(
                    f"judge people: {len(wanted) - len(left)} of {len(wanted)} pairs are judged; resume later"
                )
            logger.warning("%s: %d of %d pairs wait for people", self.study, len(left), len(wanted))
            sleep(self.poll)
        votes = shares(study, wanted)
        return [NOT_AN_ITEM if one is None else _verdict(votes.get(one[0]), one[1]) for one in known]


def _verdict(share: float | None, turned: bool) -> Verdict:
    """The verdict from the share of votes for the item's first answer; `turned` where that is the pair's second."""
    return NO_VOTE if share is None else Verdict(1 - share if turned else share)


@hookimpl
def register_judge() -> dict[str, type]:
    """The judge of this file."""
    return {"people": People}
