"""What a reward answers for each response: a number, None, or a dict with `score` and further numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from math import isfinite, isnan, nan
from numbers import Real
from typing import Any

SCORE = "score"  # the key of a dict that is the reward
FORM = f"a dict has `{SCORE}`, the reward, and further numbers by name"


class Wrong(Exception):
    """An answer that its kind does not allow; the message is the end of a sentence that begins with the component."""


def scores_of(
    rows: Sequence[Any], responses: Sequence[str], nan_is_none: bool = False
) -> tuple[list[Any], dict[str, list[float]]]:
    """The reward of each row, and the further numbers of rows that are dicts, NaN where a row has none or None.

    Args:
        rows: the rows of B responses.
        responses: what each is of.
        nan_is_none: whether a part may be NaN, as None.

    Raises:
        Wrong: there are not B rows and some are dicts, one has no `score`, or a part is no number or has no name.
    """
    dicts = [row for row in rows if isinstance(row, Mapping)]
    if not dicts:
        return list(rows), {}
    if len(rows) != len(responses):
        raise Wrong(f"gave {len(rows)} row{'s' * (len(rows) != 1)} for {len(responses)} responses")
    for row, response in zip(rows, responses, strict=True):
        if isinstance(row, Mapping):
            _check(row, response, nan_is_none)
    names = [name for name in dict.fromkeys(key for row in dicts for key in row) if name != SCORE]
    parts = {name: [_part(row, name) for row in rows] for name in names}
    return [row[SCORE] if isinstance(row, Mapping) else row for row in rows], parts


def distinct(names: Sequence[str]) -> list[str]:
    """The names, each that one before has with the first number that makes it new: `f`, `f_2`."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in count(2))
        found.append(name if name not in found else next(one for one in numbered if one not in {*found, *names}))
    return found


def refuse_whole(answer: Any, responses: int) -> None:
    """Raises Wrong where a dict is given for all responses at once."""
    if isinstance(answer, Mapping):
        raise Wrong(
            f"gave one dict with {listed(answer)}, not a list with a number or a dict for each of {responses} "
            f"responses; {FORM}"
        )


def listed(keys: Any) -> str:
    """Keys as an error names them."""
    return ("the keys " + ", ".join(map(repr, keys))) if keys else "no keys"


def is_name(name: Any) -> bool:
    """Whether a curve may have this name."""
    return isinstance(name, str) and bool(name.strip()) and name.isprintable()


def as_number(value: Any) -> float | None:
    """A number, a bool or an array of one number as a float; None for anything else."""
    if isinstance(value, Real):
        return float(value)
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        return as_number(value.item())
    return None


def _check(row: Mapping[Any, Any], response: str, nan_is_none: bool) -> None:
    where = f"for the response {response!r}"
    if SCORE not in row:
        raise Wrong(f"gave a dict with {listed(row)} {where}, without {SCORE!r}: {FORM}")
    for name, value in row.items():
        if not is_name(name):
            raise Wrong(f"gave the key {name!r} {where}: the name of a part is a text of printable characters")
        if name == SCORE and isinstance(value, str | bytes | Mapping):
            raise Wrong(f"gave {value!r:.60} as {SCORE!r} {where}: it is a number, or None where there is no reward")
        if name == SCORE or value is None:
            continue
        number = as_number(value)
        if number is None:
            raise Wrong(
                f"gave {value!r:.60} as {name!r} {where}: a part is a number, or None where there is none; texts go to "
                "the table by `log_extra`"
            )
        if not isfinite(number) and not (nan_is_none and isnan(number)):
            raise Wrong(f"gave {number} as {name!r} {where}: a part is a finite number, or None where there is none")


def _part(row: Any, name: str) -> float:
    value = as_number(row[name]) if isinstance(row, Mapping) and name in row else None
    return nan if value is None else value
