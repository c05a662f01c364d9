"""Two responses and what annotators say of them become a group of two. It knows labels and strengths of a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rlhf_plugins.contract.rows import Group, Text
from rlhf_plugins.data.convert import Judgement, mean_strength, vote
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import averaged, blank, extras, key, number, optional, required, shown, texts
from rlhf_plugins.data.rows import Row
from rlhf_plugins.data.sources import ComparisonColumns, Verdict, words
from rlhf_plugins.data.splits import Placed
from rlhf_plugins.errors import DataError, known

SIGNS = {"a": 1, "b": -1, "tie": 0}
SCALARS = (bool, int, float)  # what collected data holds where a program took an answer such as "True" for a value
RANKS = {1: (0, 1), -1: (1, 0), 0: (0, 0)}


@dataclass(frozen=True)
class Said:
    """What one annotator says of a pair."""

    sign: int  # 1 for a, -1 for b, 0 for a tie
    strength: float | None = None
    count: float = 1.0  # how many votes it is: the weight of its row

    @property
    def turned(self) -> Said:
        """The same of b and a."""
        return replace(self, sign=-self.sign, strength=None if self.strength is None else -self.strength)


@dataclass
class _Pair:
    """What annotators say of a pair, in one row or in several."""

    where: str
    texts: tuple[Text, ...]  # prompt, a, b
    extras: list[dict[str, Any]]  # a row each
    said: list[Said]
    annotators: set[str] = field(default_factory=set)

    @property
    def key(self) -> str:
        """Equal for the same prompt and responses in either order."""
        prompt, *both = self.texts
        return key(prompt, *sorted(both, key=key))


def read_comparisons(
    rows: Iterable[Row],
    dropped: Dropped,
    columns: ComparisonColumns = ComparisonColumns(),  # noqa: B008
    labels: Mapping[str, Verdict] | None = None,
) -> Iterator[Placed]:
    """Pairs with a `label`, a strength, or a list of annotations that have either.

    Labels are put together by `convert.vote`, strengths by `convert.mean_strength`; ties are kept. Rows of one pair
    that name different annotators are put together too, each as many votes as its weight. Left out and counted: equal
    or empty texts, a number or true in the place of a text, pairs without a verdict or with an even vote, weight 0.

    Raises:
        DataError: a column is missing, holds a value of the wrong type, or a label is no known word.
    """
    meaning = {word.lower(): SIGNS[verdict] for word, verdict in (labels or words()).items()}
    pairs: dict[str, _Pair] = {}
    for where, fields in rows:
        pair = _row(where, fields, dropped, columns, meaning)
        if pair is None:
            continue
        named = optional(where, "annotator", columns.annotator, fields)
        place = where if named is None else pair.key
        first = pairs.setdefault(place, pair)
        if str(named) in first.annotators:
            dropped.add("an annotator judges a pair again", where)
        elif first is not pair:
            first.said += pair.said if pair.texts == first.texts else [s.turned for s in pair.said]
            first.extras += pair.extras
        first.annotators.add(str(named))
    for pair in pairs.values():
        group = _group(pair, dropped)
        if group is not None:
            yield pair.where, group


def _row(
    where: str, fields: dict[str, Any], dropped: Dropped, columns: ComparisonColumns, meaning: Mapping[str, int]
) -> _Pair | None:
    names = (columns.prompt, columns.response_a, columns.response_b)
    if any(isinstance(required(where, name, fields), SCALARS) for name in names):
        dropped.add("a number, true or false stands for a text", where)
        return None
    found = texts(where, fields, names)
    more = extras(where, fields, columns)
    said = [replace(one, count=more["weight"]) for one in _said(where, fields, columns, meaning)]
    pair = _Pair(where, found, [more], said)
    if any(map(blank, found)):
        reason = "empty prompt or response"
    elif found[1] == found[2]:
        reason = "both responses are equal"
    elif not pair.said:
        reason = "no annotator gave a verdict"
    elif not more["weight"]:
        reason = "weight 0"
    else:
        return pair
    dropped.add(reason, where)
    return None


def _group(pair: _Pair, dropped: Dropped) -> Group | None:
    judged = _together(pair.said)
    if judged is None:
        dropped.add("annotators are evenly divided", pair.where)
        return None
    prompt, a, b = pair.texts
    more = averaged(pair.extras)
    more["weight"] *= judged.weight
    return Group(prompt, (a, b), RANKS[judged.sign], judged.margin, **more)


def _together(said: list[Said]) -> Judgement | None:
    strengths, counts = [s.strength for s in said if s.strength is not None], [s.count for s in said]
    return mean_strength(strengths, counts) if len(strengths) == len(said) else vote([s.sign for s in said], counts)


def _said(where: str, fields: dict[str, Any], columns: ComparisonColumns, meaning: Mapping[str, int]) -> Iterator[Said]:
    if columns.annotations is None or columns.annotations not in fields:
        yield from _one(where, fields, columns, meaning)
        return
    annotations = fields[columns.annotations]
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        raise DataError(f"{where}: {columns.annotations} must be a list of objects, found {shown(annotations)}")
    for number_, annotation in enumerate(annotations):
        yield from _one(f"{where}: {columns.annotations}[{number_}]", annotation, columns, meaning)


def _one(where: str, fields: dict[str, Any], columns: ComparisonColumns, meaning: Mapping[str, int]) -> Iterator[Said]:
    """What the fields say, which may be nothing."""
    if columns.strength in fields:
        strength = number(where, columns.strength, fields[columns.strength])
        if strength is not None:
            yield Said((strength > 0) - (strength < 0), strength)
        return
    if columns.label not in fields:
        lacks = f"lacks {columns.label!r} and {columns.strength!r} {known(columns.label, fields)}"
        raise DataError(f"{where}: {lacks}; say by `columns` what they are called")
    label = fields[columns.label]
    if label is None or label == "":
        return
    word = str(label).strip().lower()
    if word not in meaning:
        raise DataError(
            f"{where}: {columns.label} is {shown(label)} {known(word, meaning)}; `labels` says what words mean"
        )
    yield Said(meaning[word])
