"""Rated responses become groups: one response a row, or a list of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import Any

from rlhf_plugins.contract.rows import Group, Text
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import averaged, blank, extras, key, number, required, responses
from rlhf_plugins.data.formats.shapes import opened_prompt, with_system_cells
from rlhf_plugins.data.rows import Row
from rlhf_plugins.data.sources import Dimensions, RatingColumns
from rlhf_plugins.data.splits import Placed
from rlhf_plugins.errors import DataError, nearest

SYNTAX = "`dimensions: {helpful: helpful, honest: annotations.honest}`"
MISSING = ("N/A", "n/a")  # ratings that were not given
Ratings = dict[str, list[float]]  # dimension -> what annotators gave


@dataclass
class _Rated:
    """The responses to one prompt and what each was given."""

    where: str
    prompt: Text
    texts: dict[str, Text] = field(default_factory=dict)
    ratings: dict[str, Ratings] = field(default_factory=dict)
    extras: list[dict[str, Any]] = field(default_factory=list)

    def add(self, response: Text, ratings: Mapping[str, Sequence[float]]) -> None:
        name = key(response)
        self.texts.setdefault(name, response)
        held = self.ratings.setdefault(name, defaultdict(list))
        for dimension, values in ratings.items():
            held[dimension] += values


def read_ratings(
    rows: Iterable[Row],
    dropped: Dropped,
    columns: RatingColumns = RatingColumns(),  # noqa: B008
    dimensions: Dimensions = ("score",),  # type: ignore[assignment]
) -> Iterator[Placed]:
    """Groups with `ratings`, each the mean of what annotators gave; None where nobody rated.

    Rows with one response are put together by prompt and topic; a row with a list of responses is a group. The same
    response again is another annotator's rating of it.

    Raises:
        DataError: a column is missing, a rating is not a finite number, or no row has a rating of some dimension.
    """
    paths = dimensions if isinstance(dimensions, dict) else {name: name for name in dimensions}
    read = {name for path in paths.values() for name in (path, path.partition(".")[0])}
    groups: dict[str, _Rated] = {}
    missing = dict.fromkeys(paths, "")  # of each dimension that no row has had yet: what the first row has
    for where, fields in with_system_cells(rows):
        with dropped.row(where):
            prompt, taken = opened_prompt(where, fields, columns.prompt)
            more = extras(where, fields, columns, read | taken)
            many = columns.responses in fields
            place = where if many else key(prompt, more["topic"] or "")
            rated = list(_rated(where, fields, columns, prompt, paths, missing))
            if blank(prompt) or any(blank(response) for response, _ in rated):
                dropped.add("empty prompt or response", where)
                continue
            group = groups.setdefault(place, _Rated(where, prompt))
            group.extras.append(more)
            for response, ratings in rated:
                group.add(response, ratings)
    _all_found(missing, groups)
    for group in groups.values():
        if any(values for ratings in group.ratings.values() for values in ratings.values()):
            yield group.where, _group(group, list(paths))
        else:
            dropped.add("no rating", group.where)


def _rated(
    where: str,
    fields: dict[str, Any],
    columns: RatingColumns,
    prompt: Text,
    paths: Mapping[str, str],
    missing: dict[str, str],
) -> Iterator[tuple[Text, Ratings]]:
    if columns.responses not in fields:
        response = required(where, columns.response, fields)
        (found,) = responses(where, columns.response, [response], columns.text, prompt)
        yield found, {name: _values(where, fields, path, name, missing) for name, path in paths.items()}
        return
    elements = fields[columns.responses]
    texts = responses(where, columns.responses, elements, columns.text, prompt)
    for index, (element, found) in enumerate(zip(elements, texts, strict=True)):
        place = f"{where}: {columns.responses}[{index}]"
        if not isinstance(element, dict):
            element = {path: _beside(where, fields, path, index, len(texts)) for path in paths.values()}
        yield found, {name: _values(place, element, path, name, missing) for name, path in paths.items()}


def _beside(where: str, fields: dict[str, Any], path: str, index: int, count: int) -> Any:
    """The rating of a response without fields: the one at its index in a list beside the responses."""
    values: Any = fields
    for name in [path] if path in fields else path.split("."):
        values = required(where, name, values if isinstance(values, dict) else {})
    if values is not None and (not isinstance(values, list) or len(values) != count):
        found = f"{count} responses and {len(values)} scores: " if isinstance(values, list) else ""
        raise DataError(f"{where}: {found}{path} must be a list of {count} ratings, one a response")
    return values and values[index]


def _values(where: str, fields: dict[str, Any], path: str, name: str, missing: dict[str, str]) -> list[float]:
    leaves = list(_leaves(fields, path))
    if leaves:
        missing.pop(name, None)
    elif name in missing and not missing[name]:
        missing[name] = f"{where}: has no rating at {path!r} {nearest(path, _paths(fields))}"
    numbers = (number(where, path, leaf) for leaf in leaves if leaf not in MISSING)
    return [value for value in numbers if value is not None]


def _leaves(value: Any, path: str) -> Iterator[Any]:
    """The values at the end of a dotted path; of a list on the way, those of every element."""
    if isinstance(value, list):
        for element in value:
            yield from _leaves(element, path)
    elif isinstance(value, dict):
        first, _, rest = path.partition(".")
        if path in value:
            yield from value[path] if isinstance(value[path], list) else [value[path]]
        elif rest and first in value:
            yield from _leaves(value[first], rest)


def _paths(value: Any, above: str = "") -> Iterator[str]:
    """The dotted paths of an object."""
    if isinstance(value, list):
        yield from _paths(value[0], above) if value else ()
    elif isinstance(value, dict):
        for name, below in value.items():
            yield from _paths(below, f"{above}.{name}" if above else name)
    elif above:
        yield above


def _all_found(missing: Mapping[str, str], groups: Mapping[str, _Rated]) -> None:
    for message in missing.values():
        if message and groups:
            raise DataError(f"{message}; name the paths of ratings in `dimensions`, such as {SYNTAX}")


def _group(rated: _Rated, dimensions: Sequence[str]) -> Group:
    ratings = {name: tuple(_mean(rated.ratings[response][name]) for response in rated.texts) for name in dimensions}
    return Group(rated.prompt, tuple(rated.texts.values()), ratings=ratings, **averaged(rated.extras))


def _mean(values: Sequence[float]) -> float | None:
    return fsum(values) / len(values) if values else None
