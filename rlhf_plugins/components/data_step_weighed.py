"""Steps on how much rows count: balance over topics, agreement, difficulty, and what is hard more often."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from rlhf_plugins.contract.component import uses
from rlhf_plugins.contract.hookspecs import hookimpl
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.contract.run_kinds import DataStep, Generator
from rlhf_plugins.data.changes.mixing import repeated
from rlhf_plugins.data.changes.steps import best, copied, judged_less, kept, remembered, without
from rlhf_plugins.data.measures.agreement import agreement, by_margin, by_ratings, by_votes
from rlhf_plugins.errors import DataError

if TYPE_CHECKING:
    from rlhf_plugins.contract.rows import Data
    from rlhf_plugins.contract.run import Run

Difficulty = Callable[[Group], float | None]
MEASURES: dict[str, Difficulty] = {"votes": by_votes, "margin": by_margin, "ratings": by_ratings}
Alpha = Annotated[float, Field(ge=0, description="per standard deviation of difficulty; 0 is no difference")]


@dataclass(frozen=True)
class Balanced(DataStep):
    """Rows of each class in proportion to n_c^alpha, with n_c its number of rows: the number of all rows stays.

    0 gives every class as many rows, 1 leaves them as they are (the sampling of Arivazhagan et al. 2019, with
    alpha = 1 / T). Rows of a small class are repeated; of a large one some are left out, by hash, and counted.
    """

    by: Annotated[
        Literal["topic", "label"],
        Field(description="the classes: topics (tasks), or desirable and undesirable answers"),
    ] = "topic"
    alpha: Annotated[float, Field(ge=0, le=1, description="0 is balanced, 1 as the rows are")] = 0.0

    def __call__(self, data: Data, seed: int) -> Data:
        """Raises DataError where the rows are of one class."""
        classes: dict[object, list[Group]] = defaultdict(list)
        for group in data.train:
            classes[getattr(group, self.by)].append(group)
        if len(classes) < 2:
            raise DataError(f"balanced: all rows have one {self.by}, so that there is nothing to balance")
        total = sum(len(rows) ** self.alpha for rows in classes.values())
        dropped, train = copied(data), list[Group]()
        for name, rows in classes.items():
            aim = max(1, round(len(data.train) * len(rows) ** self.alpha / total))
            train += (taken := repeated(rows, aim / len(rows), seed))
            seen = {id(group) for group in taken}
            for group in rows:
                if id(group) not in seen:
                    dropped.add(f"balanced: of the {self.by} {name}", str(group.origin or "a row"))
        return replace(data, train=tuple(train), dropped=dropped)


@dataclass(frozen=True)
class Agreed(DataStep):
    """Leaves out judgements on which people agree too little; a row without any other is left out.

    The agreement about a pair is (n_1 - n_2) / n of its n votes, those for the first verdict less those for the next,
    or the weight that its votes have become. A row that nobody compared, such as an answer, stays.
    """

    least: Annotated[float, Field(gt=0, le=1, description="agreement that a judgement needs")] = 0.5

    def __call__(self, data: Data, seed: int) -> Data:
        """Judgements that are left out of rows that stay are counted too."""
        left = [self._left(group) for group in data.train]
        dropped = copied(data)
        for group, (_, gone) in zip(data.train, left, strict=True):
            for _ in range(gone):
                dropped.add("agreed: pair of little agreement in a row that stays", str(group.origin or "a row"))
        made = replace(data, train=tuple(row for row, _ in left), dropped=dropped)
        return kept(made, lambda group: "agreed: little agreement" if group.compared == () else None)

    def _left(self, group: Group) -> tuple[Group, int]:
        """The row with the judgements that are agreed on, and how many pairs are gone from it, if any is left."""
        found = agreement(group)
        weak = {pair for pair, value in found.items() if value < self.least}
        gone = {place for place, c in enumerate(group.comparisons) if frozenset((c.better, c.worse)) in weak}
        left = judged_less(group, gone)
        return left, len(weak) if left.compared else 0


@dataclass(frozen=True)
class DerivedDifficulty(DataStep, writes={"difficulty"}):
    """Gives rows a difficulty, for `curriculum` and for steps that read it; one that a row has stays.

    Of `votes` it is 1 - (n_1 - n_2) / n, of `margin` and `ratings` the difference with a minus, so that near ones are
    hard; each is the mean over a row's pairs. The stage `label_check` derives it from a first model's margin.
    """

    by: Annotated[Literal["votes", "margin", "ratings"], Field(description="what it is derived from")] = "votes"

    def __call__(self, data: Data, seed: int) -> Data:
        """Raises DataError where all rows come out equally hard."""
        measure = MEASURES[self.by]
        rows = [g if g.difficulty is not None else replace(g, difficulty=measure(g)) for g in data.train]
        if len({group.difficulty for group in rows} - {None}) < 2:
            raise DataError(f"difficulty: no two rows differ in their {self.by}, so that all are equally hard")
        return replace(data, train=tuple(rows))


@dataclass(frozen=True)
class DifficultyByLoss(DataStep, writes={"difficulty"}):
    """Gives rows a first model's loss as their difficulty: the mean of -log p over the tokens of the best response.

    A difficulty that a row has stays. A row without a response, or that the model cannot read, gets none.
    """

    policy: Generator = uses("generator", "policy")

    def build(self, run: Run) -> Callable[[Data, int], Data]:
        """What it builds raises DataError where the model can read no row."""

        def measured(data: Data, seed: int) -> Data:
            from rlhf_plugins.engine.likelihood import mean_losses

            texts = [(g.prompt, None if (place := best(g)) is None else g.responses[place]) for g in data.train]
            given = [run.spec(self.policy), texts]
            found = remembered(run, given, lambda: mean_losses(self.policy.build(run), texts))
            if all(loss is None for loss in found):
                raise DataError("difficulty_by_loss: the model can read no row's response")
            pairs = zip(data.train, found, strict=True)
            rows = [g if g.difficulty is not None or loss is None else replace(g, difficulty=loss) for g, loss in pairs]
            return replace(data, train=tuple(rows))

        return measured


@dataclass(frozen=True)
class RepeatHard(DataStep):
    """Row i n p_i times with p_i = exp(alpha d_i) / sum_j exp(alpha d_j), d the difficulty in standard deviations.

    The number n of rows stays: each is there floor(n p_i) or one more times, by systematic resampling (Kitagawa 1996).
    A row without a difficulty has the mean. Rows that are not drawn are counted as easy.
    """

    alpha: Alpha = 0.5

    def __call__(self, data: Data, seed: int) -> Data:
        """Raises DataError where no two rows differ in difficulty."""
        p = np.exp(self.alpha * _standardised(data.train, "repeat_hard"))
        ends = np.r_[0.0, np.cumsum(p / p.sum())] * len(p)
        ends[-1] = len(p)  # which rounding may miss
        times = np.diff(np.floor(ends + np.random.default_rng(seed).random()))
        made = without(data, [None if count else "repeat_hard: easy" for count in times])
        train = [group for group, count in zip(data.train, times, strict=True) for _ in range(int(count))]
        return replace(made, train=tuple(train))


@dataclass(frozen=True)
class WeighHard(DataStep, writes={"weight"}):
    """Multiplies row i's weight by n exp(alpha d_i) / sum_j exp(alpha d_j), for losses that read it: `weighted`.

    d is the difficulty in standard deviations, that of a row without one the mean; the mean weight stays about 1.
    """

    alpha: Alpha = 0.5

    def __call__(self, data: Data, seed: int) -> Data:
        """Raises DataError where no two rows differ in difficulty."""
        p = np.exp(self.alpha * _standardised(data.train, "weigh_hard"))
        factors = (p / p.mean()).tolist()
        return replace(data, train=tuple(_weighed(g, one) for g, one in zip(data.train, factors, strict=True)))


def _weighed(group: Group, factor: float) -> Group:
    compared = group.compared and tuple(replace(c, weight=c.weight * factor) for c in group.compared)
    return replace(group, weight=group.weight * factor, compared=compared)


def _standardised(groups: Sequence[Group], who: str) -> np.ndarray:  # (n,)
    """Difficulties less their mean, over their standard deviation; 0 where a row has none."""
    given = np.array([np.nan if g.difficulty is None else g.difficulty for g in groups], dtype=float)
    known = given[~np.isnan(given)]
    if not len(known) or np.ptp(known) == 0:
        raise DataError(f"{who}: no two rows differ in difficulty; put the step `difficulty` before it")
    return np.nan_to_num((given - known.mean()) / known.std())


@hookimpl
def register_data_step() -> dict[str, type]:
    """The steps of this file."""
    return {
        "agreed": Agreed,
        "balanced": Balanced,
        "difficulty": DerivedDifficulty,
        "difficulty_by_loss": DifficultyByLoss,
        "repeat_hard": RepeatHard,
        "weigh_hard": WeighHard,
    }
