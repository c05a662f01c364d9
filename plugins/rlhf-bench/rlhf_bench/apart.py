"""Data formats that keep a judge's rows from those that policies learn from. They know prompts, no stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated, Literal

from pydantic import Field

from rlhf_plugins import Base, Data, DataError, DataFormat, Group, Run, uses

OF_OTHERS = "prompt is one that policies learn from"  # why a row of a judge is left out


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
        """As `load`."""
        return self._part(self.rows.load_in(run))

    def known_gold(self) -> bool | None:
        """As of the other format."""
        return self.rows.known_gold()

    def known_columns(self) -> frozenset[str] | None:
        """As of the other format."""
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
    """The rows of a format without those to train on whose prompt another format has among its own, which are counted.

    So a judge that has a file of its own does not learn from the prompts of the policies.
    """

    rows: DataFormat = uses("data_format", tag="format")
    by: DataFormat = uses("data_format", tag="format")

    def load(self, base: Base, seed: int) -> Data:
        """Raises DataError as both formats do, and where no row is left to train on."""
        return self._without(self.rows.load(base, seed), self.by.load(base, seed))

    def load_in(self, run: Run) -> Data:
        """As `load`."""
        return self._without(self.rows.load_in(run), self.by.load_in(run))

    def known_gold(self) -> bool | None:
        """As of the rows."""
        return self.rows.known_gold()

    def known_columns(self) -> frozenset[str] | None:
        """As of the rows."""
        return self.rows.known_columns()

    def known_rows(self) -> int | None:
        """As of the rows, of which some may be left out."""
        return self.rows.known_rows()

    def _without(self, data: Data, others: Data) -> Data:
        seen = {worded(group) for group in (*others.train, *others.prompts.get("train", ()))}
        found = training(data, lambda group: worded(group) not in seen)
        if data.train and not found.train:
            raise DataError("unseen: policies learn from the prompt of every row, so that none is left for the judge")
        lost = len(data.train) - len(found.train)
        return replace(found, dropped=data.dropped if not lost else counted(data.dropped, lost))


def training(data: Data, keep: Callable[[Group], bool]) -> Data:
    """The data with some of its rows and prompts to train on."""
    asked = tuple(filter(keep, data.prompts.get("train", ())))
    return replace(data, train=tuple(filter(keep, data.train)), prompts={**data.prompts, "train": asked})


def counted(dropped: Mapping[str, int], lost: int) -> Mapping[str, int]:
    """What was left out before, and so many more."""
    return {**dropped, OF_OTHERS: dropped.get(OF_OTHERS, 0) + lost}


def worded(group: Group) -> str:
    """Equal for prompts that differ in space and case alone."""
    return " ".join(str(group.prompt).split()).lower()


def drawn(group: Group) -> float:
    """A number from 0 to 1 that follows from the prompt's words."""
    return int.from_bytes(sha256(worded(group).encode()).digest()[:8]) / 2**64
