"""Data formats that keep a judge's rows from those that policies learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated, Literal

from pydantic import Field

from rlhf_plugins import Base, Data, DataError, DataFormat, Group, Run, uses

# why a row of a judge is left out
OF_OTHERS = "prompt is one that policies learn from"
HELD_OUT = "prompt is one that policies are judged on"


@dataclass(frozen=True)
class Apart(DataFormat, like="rows"):
    """The training rows of another format in two parts that share no prompt: of the policies, and of their judge.

    A prompt's part follows from its words alone, so that it is the same under every seed. Held-out rows stay.
    """

    rows: DataFormat = uses("data_format", tag="format")
    share: Annotated[float, Field(gt=0, lt=1, description="of the training prompts, about: those of the judge")] = 0.5
    part: Annotated[Literal["policies", "judge"], Field(description="whose rows these are")] = "policies"

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError as the other format does, and where a part has no rows."""
        return self._part(self.rows.load(base, seed))

    def load_in(self, run: Run) -> Data:
        """Loads the rows as `load` does, with the other format's `load_in`."""
        return self._part(self.rows.load_in(run))

    def known_gold(self) -> bool | None:
        """Whether a gold reward comes with the rows of the other format; None is unknown."""
        return self.rows.known_gold()

    def known_columns(self) -> frozenset[str] | None:
        """Which of `COLUMNS` the rows of the other format have; None is unknown."""
        return self.rows.known_columns()

    def known_rows(self) -> int | None:
        """About the share of them."""
        rows, share = self.rows.known_rows(), self.share if self.part == "judge" else 1 - self.share
        return None if rows is None else round(rows * share)

    def _part(self, data: Data) -> Data:
        found = training(data, lambda group: (drawn(group) < self.share) is (self.part == "judge"))
        if data.train and not found.train:
            raise DataError(f"apart: share: {self.share} of {len(data.train)} rows leaves none for {self.part}")
        return found


@dataclass(frozen=True)
class Unseen(DataFormat, like="rows"):
    """The rows of a format without those to train on whose prompt another format has, which are counted.

    So a judge that has a file of its own learns neither from the prompts of the policies nor from the held-out ones,
    on which it judges them and is itself measured.
    """

    rows: DataFormat = uses("data_format", tag="format")
    by: DataFormat = uses("data_format", tag="format")

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError as both formats do, and where no row is left to train on."""
        return self._without(self.rows.load(base, seed), self.by.load(base, seed))

    def load_in(self, run: Run) -> Data:
        """Loads the rows as `load` does, with the `load_in` of both formats."""
        return self._without(self.rows.load_in(run), self.by.load_in(run))

    def known_gold(self) -> bool | None:
        """Whether a gold reward comes with the rows of `rows`; None is unknown."""
        return self.rows.known_gold()

    def known_columns(self) -> frozenset[str] | None:
        """Which of `COLUMNS` the rows of `rows` have; None is unknown."""
        return self.rows.known_columns()

    def known_rows(self) -> int | None:
        """About how many rows `rows` has to train on, of which some may be left out here; None is unknown."""
        return self.rows.known_rows()

    def _without(self, data: Data, others: Data) -> Data:
        asked = [group for rows in others.prompts.values() for group in rows]
        learned = {group.prompt_words for group in (*others.train, *others.prompts.get("train", ()))}
        why = {group.prompt_words: HELD_OUT for group in (*others.groups, *asked)} | dict.fromkeys(learned, OF_OTHERS)
        found = training(data, lambda group: group.prompt_words not in why)
        if data.train and not found.train:
            raise DataError(
                "unseen: policies learn from the prompt of every row, or are judged on it, so that none is left for "
                "the judge"
            )
        lost = Counter(why[words] for group in data.train if (words := group.prompt_words) in why)
        return replace(found, dropped=dict(Counter(data.dropped) + lost))


def training(data: Data, keep: Callable[[Group], bool]) -> Data:
    """The data with some of its rows and prompts to train on."""
    asked = tuple(filter(keep, data.prompts.get("train", ())))
    return replace(data, train=tuple(filter(keep, data.train)), prompts={**data.prompts, "train": asked})


def drawn(group: Group) -> float:
    """A number from 0 to 1 that follows from the prompt's words."""
    return int.from_bytes(sha256(group.prompt_words.encode()).digest()[:8]) / 2**64
