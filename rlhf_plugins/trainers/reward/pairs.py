"""TRL's rows, two lists of tokens each, as rows of a reward trainer."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from datasets import Dataset

from rlhf_plugins.contract.guards import named
from rlhf_plugins.data.batches.numeric import PREFIX
from rlhf_plugins.data.batches.ranked import Collator
from rlhf_plugins.errors import DataError, nearest
from rlhf_plugins.trainers.steps.draws import Examples
from rlhf_plugins.trainers.steps.micro_batches import in_micro_batches

logger = logging.getLogger(__name__)
ROW = "row of the data set"  # a column that numbers the rows where a training must tell them apart
OURS = ("margin", "weight", "probability", "difficulty", "topic")  # columns of a pair; of these TRL reads `margin`
COLUMNS = ("chosen_ids", "rejected_ids", *OURS, ROW)
TOO_LONG, TOO_SHORT = "longer than max_length", "a response of one token with nothing before it"

Ids = Sequence[int]


@dataclass(frozen=True)
class Pairs:
    """Makes a batch of TRL's rows, or of those that `ranked_rows` made.

    Args:
        collate: makes a batch of rows.
        tokens: most tokens of a micro-batch; None is no limit.
        own: read our columns `weight` and `probability` too, which TRL ignores.
        columns: numeric columns that a loss or a head reads.
    """

    collate: Collator
    tokens: int | None = None
    own: bool = False
    columns: Collection[str] = ()

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """-> what the collator makes of them, or its `micro_batches`."""
        given = [row if "branch_ids" in row else self.row(row) for row in rows]
        return in_micro_batches(given, self.collate.groups, self.tokens, self.collate.layout, self.collate)

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row as `ranked_rows` makes them: what both sequences begin with becomes the prompt."""
        chosen, rejected = row["chosen_ids"], row["rejected_ids"]
        shared = shared_tokens(chosen, rejected)
        margin = _number(row, "margin", 0.0)
        weight, probability = (_number(row, name, 1.0) if self.own else 1.0 for name in ("weight", "probability"))
        return {
            "prompt_ids": chosen[:shared],
            "branch_ids": [chosen[shared:], rejected[shared:]],
            "ranks": [0, 1],
            "margin": margin,
            "weight": weight,
            "compared": [[0.0, 1.0, 0.0, margin, weight, probability]],
            "ratings": [[], []],
            "row": row.get(ROW, 0),
            "topic": 0,
            **{PREFIX + name: row[name] for name in sorted(self.columns)},
        }


class Fitting:
    """Whether a row fits; counts those that do not, by reason, and logs the first of a stream."""

    def __init__(self, max_length: int | None, left_out: Counter[str], which: str) -> None:
        self._max_length, self._left_out = max_length, left_out
        self._prefix = "" if which == "train" else f"{which}: "

    def __call__(self, row: Mapping[str, Any]) -> bool:
        """Called for each row of a stream."""
        reason = self._obstacle(row["chosen_ids"], row["rejected_ids"])
        if reason is None:
            return True
        self._left_out[reason] += 1
        if self._left_out[reason] == 1:
            logger.warning("a streamed pair is left out, as any further one is: %s", reason)
        return False

    def of(self, rows: Dataset) -> Dataset:
        """The rows of a data set that fit."""
        sides = zip(rows["chosen_ids"], rows["rejected_ids"], strict=True)
        reasons = [self._obstacle(*ids) for ids in sides]
        found = Counter(filter(None, reasons))
        if not found:
            return rows
        self._left_out.update(found)
        counts = ", ".join(f"{count} x {reason}" for reason, count in found.items())
        logger.warning("left out %d of %d pairs: %s", found.total(), len(rows), counts)
        return rows.select([place for place, reason in enumerate(reasons) if reason is None])

    def _obstacle(self, chosen: Ids, rejected: Ids) -> str | None:
        """Why a pair is left out; None if it is not."""
        shortest, longest = sorted((len(chosen), len(rejected)))
        if self._max_length is not None and longest > self._max_length:
            return self._prefix + TOO_LONG
        return self._prefix + TOO_SHORT if shortest < 2 else None


def columns_of(rows: Any) -> list[str]:
    """The columns of a data set; of a stream that does not say, those of its first row."""
    return list(rows.column_names or next(iter(rows)))


def refuse_unread(parts: Sequence[Any], soft: bool, columns: Collection[str]) -> None:
    """Raises DataError where components need a column that rows lack, or soft labels are there and no loss reads them.

    Args:
        parts: the components that read rows.
        soft: whether the loss reads soft labels.
        columns: those of the rows.
    """
    for part in parts:
        for name in sorted((part.needs_of() - {"ranks"}) | getattr(part, "columns", frozenset())):
            if name not in columns:
                raise DataError(f"{named(part)} needs the column {name!r} of each row {nearest(name, columns)}")
    if "probability" in columns and not soft:
        raise DataError("the rows have soft labels in the column 'probability', which this loss does not read")


def examples(rows: Any) -> Examples:
    """What a sampler may know of the rows of a data set, ours or TRL's."""
    names = rows.column_names
    topic, difficulty = (rows[name][:] if name in names else [None] * len(rows) for name in ("topic", "difficulty"))
    if "branch_ids" in names:
        return Examples(rows["length"][:], difficulty, topic)
    pairs = zip(rows["chosen_ids"], rows["rejected_ids"], strict=True)
    lengths = [len(chosen) + len(rejected) - shared_tokens(chosen, rejected) for chosen, rejected in pairs]
    return Examples(lengths, difficulty, topic)


def shared_tokens(chosen: Ids, rejected: Ids) -> int:
    """Tokens with which both begin, but for the last one of either."""
    pairs = zip(chosen[:-1], rejected[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _number(row: Mapping[str, Any], name: str, missing: float) -> float:
    value = row.get(name)
    return missing if value is None else float(value)
