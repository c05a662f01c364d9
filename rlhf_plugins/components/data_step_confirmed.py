"""A step that has a judge look at made rows: pairs that it does not confirm are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.run_kinds import DataStep, Judge
from rlhf_plugins.data.changes.steps import AT_ONCE, is_made, remembered, without
from rlhf_plugins.data.fields import content
from rlhf_plugins.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rlhf_plugins.contract.records import Verdict
    from rlhf_plugins.contract.rows import Data, Group, Text
    from rlhf_plugins.contract.run import Run

CONTRADICTED = "not confirmed by the judge"


class Asked(NamedTuple):
    """A strict comparison of a row, as a judge is asked about it."""

    row: int
    prompt: Text
    better: str
    worse: str

    @property
    def shown(self) -> tuple[str, str]:
        """Both responses, in the order in which the judge sees them."""
        return (self.worse, self.better) if self.row % 2 else (self.better, self.worse)

    def answer(self, verdict: Verdict) -> tuple[float | None, str]:
        """P(the preference), None where there is none, and the judge's status in words."""
        first = verdict.probability
        return (1 - first if first is not None and self.row % 2 else first), f"the judge {verdict.status}"


@dataclass(frozen=True)
class Confirmed(DataStep):
    """Keeps rows whose preferences a second judge shares: cross-validation of rows that were made.

    The judge is asked about each strict preference of a row, and gives it a probability; the row stays where each is
    above `least`. A row on which the judge abstains or fails is left out too, and counted apart. Rows that hold no
    strict preference stay. The judge should be none of the models that made the rows.
    """

    judge: Judge = uses("judge")
    least: Annotated[float, Field(ge=0.5, lt=1, description="probability that a preference must exceed")] = 0.5
    over: Annotated[
        Literal["made", "all"], Field(description="rows that a step or a stage made of others, or all rows")
    ] = "made"

    def build(self, run: Run) -> Callable[[Data, int], Data]:
        """What it builds raises DataError where no row can be judged, or the judge answers nothing."""

        def confirmed(data: Data, seed: int) -> Data:
            rows = [(row, group) for row, group in enumerate(data.train) if self.over == "all" or is_made(group)]
            pairs = [one for row, group in rows for one in _asked(row, group)]
            if not pairs:
                made = "that was made of others " if self.over == "made" else ""
                raise DataError(f"confirmed: no row {made}has a preference")
            verdicts = _verdicts(run, self.judge, pairs)
            if all(probability is None for probability, _ in verdicts):
                raise DataError(f"confirmed: {verdicts[0][1]} on all {len(pairs)} preferences")
            reasons: list[str | None] = [None] * len(data.train)
            for one, (probability, status) in zip(pairs, verdicts, strict=True):
                if probability is None or probability <= self.least:
                    why = status if probability is None else CONTRADICTED
                    reasons[one.row] = reasons[one.row] or f"confirmed: {why}"
            return without(data, reasons)

        return confirmed


def _verdicts(run: Run, judge: Judge, pairs: Sequence[Asked]) -> list[tuple[float | None, str]]:
    """The probability of each preference, None where there is none, and the judge's status in words.

    Of every other row the worse response is shown first: a judge that always says the first confirms only half of all.
    """
    built = cache(lambda: judge.build(run))

    def ask(part: Sequence[Asked]) -> list[tuple[float | None, str]]:
        shown = [one.shown for one in part]
        verdicts = built()([one.prompt for one in part], [first for first, _ in shown], [second for _, second in shown])
        return [one.answer(verdict) for one, verdict in zip(part, verdicts, strict=True)]

    parts = [pairs[start : start + AT_ONCE] for start in range(0, len(pairs), AT_ONCE)]
    answers = [remembered(run, [run.spec(judge), part], partial(ask, part)) for part in parts]
    return [(probability, status) for part in answers for probability, status in part]


def _asked(row: int, group: Group) -> list[Asked]:
    texts = [content(response) for response in group.responses]
    return [Asked(row, group.prompt, texts[c.better], texts[c.worse]) for c in group.comparisons if not c.tied]


@hookimpl
def register_data_step() -> dict[str, type]:
    """The step of this file."""
    return {"confirmed": Confirmed}
