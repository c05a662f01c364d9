"""Refuses rows of a script's data sets that a training cannot read, with row and column, before TRL reads them.

A column of numbers may have missing values, and must be finite. Rows that are streamed are checked as they come,
the first one at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from datasets import Dataset, IterableDataset

from rlhf_plugins.errors import DataError, nearest

logger = logging.getLogger(__name__)
TEXTS = ("prompt", "chosen", "rejected", "prompt_ids", "chosen_ids", "rejected_ids")
PAIR = ["chosen", "rejected"]
UNSHARED = "chosen and rejected share no beginning that could be one (an implicit prompt)"
LEAST = {"weight": 0.0, "probability": 0.0}  # smallest value of a column; others have no bound
MOST = {"probability": 1.0}


@dataclass(frozen=True)
class Rows:
    """What a trainer reads of its rows.

    Args:
        texts: columns that no row may lack, where the data set has them.
        numbers: columns of which a row has a finite number within its bounds, or none.
        features: columns of which every row has finite numbers, or lists of them.
        needs: sets of columns, one of which every data set has whole.
        implicit: whether pairs may lack a prompt, which then is what both responses begin with.
    """

    texts: Collection[str] = TEXTS
    numbers: Collection[str] = ()
    features: Collection[str] = ()
    needs: Sequence[Collection[str]] = ()
    implicit: bool = False

    def checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A constructor's arguments, whose streamed data sets are checked as they are read.

        Raises:
            DataError: a data set has no rows or lacks a column, or a row lacks a text or a number that is one.
        """
        found = dict(given)
        if given.get("train_dataset") is not None:
            found["train_dataset"] = self._data_set("train_dataset", given["train_dataset"])
        held_out = given.get("eval_dataset")
        if isinstance(held_out, Mapping):
            kind: Any = type(held_out)  # such as a DatasetDict
            each = {name: self._data_set(f"eval_dataset {name!r}", one) for name, one in held_out.items()}
            found["eval_dataset"] = kind(each)
        elif held_out is not None:
            found["eval_dataset"] = self._data_set("eval_dataset", held_out)
        return found

    def _data_set(self, name: str, rows: Any) -> Any:
        if isinstance(rows, IterableDataset):
            rows = rows.filter(lambda row, number: self._streamed(name, number, row), with_indices=True)
            if (first := next(iter(rows), None)) is None:
                raise DataError(f"{name} has no rows")
            if self._is_implicit(first) and not _share_beginning(first):
                logger.warning("%s, row 0: %s; such rows train without a prompt, as in TRL", name, UNSHARED)
        if isinstance(rows, Dataset):
            if not len(rows):
                raise DataError(f"{name} has no rows")
            self._columns(name, {*rows.column_names, *rows[0]})  # a transform may make some
            plain = rows.with_format(None)
            for column in self._suspect(rows):
                for number, value in enumerate(plain[column]):
                    self._row(name, number, {column: value})
            if rows.format["type"] != "custom" and self._is_implicit(rows.column_names):
                self._beginnings(name, plain)
        return rows

    def _streamed(self, name: str, number: int, row: Mapping[str, Any]) -> bool:
        """True. Raises DataError where the row lacks a column, or a value of it is refused."""
        self._columns(f"{name}, row {number}", row)
        self._row(name, number, row)
        return True

    def _columns(self, where: str, names: Collection[str]) -> None:
        """Raises DataError where no set of needed columns is whole, for the set of which the most are there."""
        if self.needs and not any({*needed} <= {*names} for needed in self.needs):
            meant = max(self.needs, key=lambda needed: len({*needed} & {*names}))
            column = next(column for column in meant if column not in names)
            raise DataError(f"{where} has no column {column!r} {nearest(column, names)}")

    def _is_implicit(self, names: Collection[str]) -> bool:
        return self.implicit and "prompt" not in names and "chosen_ids" not in names

    def _beginnings(self, name: str, rows: Dataset) -> None:
        """Raises DataError where no pair has an implicit prompt; where some have none, one line of the log says so."""
        lacking = [place for place, row in enumerate(rows.select_columns(PAIR)) if not _share_beginning(row)]
        if len(lacking) == len(rows):
            known = nearest("prompt", rows.column_names)
            raise DataError(f"{name} has no column 'prompt' {known}, and in every row {UNSHARED}")
        if lacking:
            which = f"{name}, {len(lacking)} of {len(rows)} rows, the first of which is row {lacking[0]}"
            logger.warning("%s: %s; these train without a prompt, as in TRL", which, UNSHARED)

    def _suspect(self, rows: Dataset) -> list[str]:
        """The columns that may hold what is refused: of texts those with a missing one."""
        names = rows.column_names
        missing = [name for name in self.texts if name in names and rows.data.column(name).null_count]
        return [*missing, *(name for name in (*self.numbers, *self.features) if name in names)]

    def _row(self, name: str, number: int, row: Mapping[str, Any]) -> None:
        """Raises DataError where a value of the row is refused."""
        for column, value in row.items():
            plain = value.tolist() if hasattr(value, "tolist") else value
            if fault := self._fault(column, plain):
                raise DataError(f"{name}, row {number}: the column {column!r} is {str(plain)[:40]}; {fault}")

    def _fault(self, column: str, value: Any) -> str | None:
        if column in self.features:
            return None if _finite(value) else "every row needs finite numbers"
        if column in self.numbers and value is not None:
            least, most = LEAST.get(column, -math.inf), MOST.get(column, math.inf)
            if isinstance(value, int | float) and math.isfinite(value) and least <= value <= most:
                return None
            return "it should be a finite number" + _bounds(least, most)
        return "every row needs one" if column in self.texts and value is None else None


def columns_read(*parts: Any) -> set[str]:
    """The numeric columns that components read, which no row may lack."""
    return {name for part in parts for name in getattr(part, "columns", ())}


def _share_beginning(row: Mapping[str, Any]) -> bool:
    """Whether chosen and rejected begin with the same message, or the same text that is more than white space."""
    both = zip(*(row[column] for column in PAIR), strict=False)
    shared = (one for one, _ in takewhile(lambda two: two[0] == two[1], both))
    return any(one.strip() if isinstance(one, str) else True for one in shared)


def _finite(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return isinstance(value, int | float) and math.isfinite(value)


def _bounds(least: float, most: float) -> str:
    if most < math.inf:
        return f" from {least:g} to {most:g}"
    return f" of at least {least:g}" if least > -math.inf else ""
