"""Refuses rows of a script's data sets that a training cannot read, with row and column, before TRL reads them.

A column of numbers may have missing values, and must be finite. Rows that are streamed are checked as they come.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, IterableDataset

from rlhf_plugins.errors import DataError

TEXTS = ("prompt", "chosen", "rejected", "prompt_ids", "chosen_ids", "rejected_ids")
LEAST = {"weight": 0.0, "probability": 0.0}  # smallest value of a column; others have no bound
MOST = {"probability": 1.0}


@dataclass(frozen=True)
class Rows:
    """What a trainer reads of its rows.

    Args:
        texts: columns that no row may lack, where the data set has them.
        numbers: columns of which a row has a finite number within its bounds, or none.
        features: columns of which every row has finite numbers, or lists of them.
    """

    texts: Collection[str] = TEXTS
    numbers: Collection[str] = ()
    features: Collection[str] = ()

    def checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A constructor's arguments, whose streamed data sets are checked as they are read.

        Raises:
            DataError: a data set has no rows, or a row lacks a text or a number that is one.
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
            rows = rows.filter(lambda row, number: self._row(name, number, row), with_indices=True)
            if next(iter(rows), None) is None:
                raise DataError(f"{name} has no rows")
        if isinstance(rows, Dataset):
            if not len(rows):
                raise DataError(f"{name} has no rows")
            for column in self._suspect(rows):
                for number, value in enumerate(rows.with_format(None)[column]):
                    self._row(name, number, {column: value})
        return rows

    def _suspect(self, rows: Dataset) -> list[str]:
        """The columns that may hold what is refused: of texts those with a missing one."""
        names = rows.column_names
        missing = [name for name in self.texts if name in names and rows.data.column(name).null_count]
        return [*missing, *(name for name in (*self.numbers, *self.features) if name in names)]

    def _row(self, name: str, number: int, row: Mapping[str, Any]) -> bool:
        """True. Raises DataError where a value of the row is refused."""
        for column, value in row.items():
            plain = value.tolist() if hasattr(value, "tolist") else value
            if fault := self._fault(column, plain):
                raise DataError(f"{name}, row {number}: the column {column!r} is {str(plain)[:40]}; {fault}")
        return True

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


def _finite(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return isinstance(value, int | float) and math.isfinite(value)


def _bounds(least: float, most: float) -> str:
    if most < math.inf:
        return f" from {least:g} to {most:g}"
    return f" of at least {least:g}" if least > -math.inf else ""
