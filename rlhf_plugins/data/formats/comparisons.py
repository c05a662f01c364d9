"""Rows of two responses with the votes of annotators become groups of two."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import fsum
from typing import Any, Literal

from rlhf_plugins.contract.rows import Comparison, Group, Text
from rlhf_plugins.data.convert import Judgement, mean_strength, soft_label, vote
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import (
    annotator,
    asked,
    at,
    averaged,
    blank,
    extras,
    form,
    holds,
    key,
    number,
    optional,
    probability,
    required,
    shown,
    text,
)
from rlhf_plugins.data.formats.battles import NUMBERED, battle, numbered
from rlhf_plugins.data.formats.shapes import as_named, with_system, with_system_cells
from rlhf_plugins.data.messages import check_answer, with_tools
from rlhf_plugins.data.rows import Row
from rlhf_plugins.data.sources import ComparisonColumns, Verdict, words
from rlhf_plugins.data.splits import Placed
from rlhf_plugins.data.turns import as_answer, as_messages
from rlhf_plugins.errors import DataError, nearest

SIGNS = {"a": 1, "b": -1, "tie": 0}
SCALARS = (bool, int, float)  # what collected data holds where a program took an answer such as "True" for a value
RANKS = {1: (0, 1), -1: (1, 0), 0: (0, 0)}


@dataclass(frozen=True)
class Vote:
    """The judgement of one annotator on a pair."""

    sign: int  # 1 for a, -1 for b, 0 for a tie
    strength: float | None = None
    probability: float | None = None  # that a is better
    count: float = 1.0  # how many votes it counts as: the weight of its row
    annotator: str | None = None

    @property
    def turned(self) -> Vote:
        """The same vote on the pair (b, a)."""
        strength = None if self.strength is None else -self.strength
        probability = None if self.probability is None else 1 - self.probability
        return replace(self, sign=-self.sign, strength=strength, probability=probability)


@dataclass
class _Pair:
    """The votes on a pair, from one row or from several."""

    where: str
    texts: tuple[Text, ...]  # prompt, a, b
    extras: list[dict[str, Any]]  # one for each row
    votes: list[Vote]
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
    votes: Literal["together", "apart"] = "together",
) -> Iterator[Placed]:
    """Pairs with a `label`, a strength, a probability, or a list of annotations that have one of them.

    Labels are combined by `convert.vote`, strengths by `convert.mean_strength`, and where any annotator gives a
    probability all votes by their mean; ties are kept. Rows of one pair by different annotators are combined too, each
    with as many votes as its weight; with `apart` a group keeps one comparison for each vote. Left out and counted:
    equal or empty texts, a number or true in the place of a text, pairs without a verdict or with an even vote,
    weight 0.

    Raises:
        DataError: a column is missing, holds a value of the wrong type, or a label is no known word.
    """
    meaning = {word.lower(): SIGNS[verdict] for word, verdict in (labels or words()).items()}
    pairs: dict[str, _Pair] = {}
    for where, fields in with_system_cells(rows):
        pair = None
        with dropped.row(where):
            pair = _row(where, fields, dropped, columns, meaning)
        if pair is None:
            continue
        named = at(fields, columns.annotator) if columns.annotator else None
        place = where if named in (None, "") else pair.key
        first = pairs.setdefault(place, pair)
        if str(named) in first.annotators:
            dropped.add("an annotator judges a pair again", where)
        elif first is not pair:
            first.votes += pair.votes if pair.texts == first.texts else [one.turned for one in pair.votes]
            first.extras += pair.extras
        first.annotators.add(str(named))
    for pair in pairs.values():
        group = _apart(pair) if votes == "apart" else _group(pair, dropped)
        if group is not None:
            yield pair.where, group


def _row(
    where: str, fields: dict[str, Any], dropped: Dropped, columns: ComparisonColumns, meaning: Mapping[str, int]
) -> _Pair | None:
    given, usual = fields, as_named(columns, ("prompt", "response_a", "response_b", "label", "strength"))
    if set(NUMBERED) <= fields.keys() and as_named(columns, ("response_a", "response_b")):
        fields = numbered(where, fields, columns.label, meaning)
        dropped.note_shape(f"{' and '.join(NUMBERED)} with {columns.label}")
    shaped = battle(where, fields, dropped) if usual else dict(fields)
    if shaped is None:
        return None
    fields = shaped
    names = (columns.prompt, columns.response_a, columns.response_b)
    if any(isinstance(required(where, name, fields), SCALARS) for name in names):
        dropped.add("a number, true or false in the place of a text", where)
        return None
    found = _one_form(where, fields, names)
    more = extras(where, given, columns, given.keys() - fields.keys())
    votes = [replace(one, count=more["weight"]) for one in _votes(where, fields, columns, meaning)]
    pair = _Pair(where, found, [more], votes)
    if any(map(blank, found)):
        reason = "empty prompt or response"
    elif found[1] == found[2]:
        reason = "both responses are equal"
    elif not pair.votes:
        reason = "no annotator gave a verdict"
    elif not more["weight"]:
        reason = "weight 0"
    else:
        return pair
    dropped.add(reason, where)
    return None


def _one_form(where: str, fields: dict[str, Any], names: tuple[str, str, str]) -> tuple[Text, ...]:
    """Prompt and responses; as messages where one of them is, and with the row's system turn and tools."""
    prompt = asked(where, names[0], required(where, names[0], fields))
    both = [text(where, name, required(where, name, fields)) for name in names[1:]]
    if form(both[0]) != form(both[1]):
        raise DataError(f"{where}: {names[1]} is {form(both[0])}, {names[2]} is {form(both[1])}")
    fields.pop(names[0], None)
    prompt = with_system(where, fields, prompt)
    if not all(isinstance(one, str) for one in (prompt, *both)):
        prompt, both = as_messages(prompt), [as_answer(one) for one in both]
    for name, one in zip(names[1:], both, strict=True):
        check_answer(where, name, one)
    return with_tools(where, prompt, fields.pop("tools", None)), *both


def _group(pair: _Pair, dropped: Dropped) -> Group | None:
    """One comparison of all votes; None where they are evenly divided."""
    prompt, a, b = pair.texts
    more = averaged(pair.extras)
    only = pair.votes[0].annotator if len(pair.votes) == 1 else None
    if any(vote.probability is not None for vote in pair.votes):
        judged = replace(soft_label(_mean_probability(pair.votes), weight=more["weight"]), annotator=only)
        return Group(prompt, (a, b), _ranks(judged), compared=(judged,), **more)
    combined = _combined(pair.votes)
    if combined is None:
        dropped.add("annotators are evenly divided", pair.where)
        return None
    more["weight"] *= combined.weight
    group = Group(prompt, (a, b), RANKS[combined.sign], combined.margin, **more)
    return group if only is None else replace(group, compared=(replace(group.comparisons[0], annotator=only),))


def _apart(pair: _Pair) -> Group:
    """One comparison for each vote, of the weight of its row."""
    prompt, a, b = pair.texts
    found = [replace(_soft(vote), weight=vote.count, annotator=vote.annotator) for vote in pair.votes]
    return Group(prompt, (a, b), compared=tuple(found), **averaged(pair.extras))


def _soft(vote: Vote) -> Comparison:
    if vote.probability is not None:
        return soft_label(vote.probability)
    better, worse = (1, 0) if vote.sign < 0 else (0, 1)
    return Comparison(better, worse, not vote.sign, None if vote.strength is None else abs(vote.strength))


def _ranks(judged: Comparison) -> tuple[int, ...]:
    return (0, 0) if judged.tied else (judged.better, judged.worse)


def _mean_probability(votes: list[Vote]) -> float:
    """Weighted by the votes' counts; a label counts as 1, 0, or 1/2 for a tie."""
    given = [(1 + vote.sign) / 2 if vote.probability is None else vote.probability for vote in votes]
    return fsum(p * vote.count for p, vote in zip(given, votes, strict=True)) / fsum(vote.count for vote in votes)


def _combined(votes: list[Vote]) -> Judgement | None:
    strengths, counts = [v.strength for v in votes if v.strength is not None], [v.count for v in votes]
    return mean_strength(strengths, counts) if len(strengths) == len(votes) else vote([v.sign for v in votes], counts)


def _votes(
    where: str, fields: dict[str, Any], columns: ComparisonColumns, meaning: Mapping[str, int]
) -> Iterator[Vote]:
    annotations = optional(where, "annotations", columns.annotations, fields)
    if annotations is None:
        _check_names(where, [fields], columns)
        yield from _vote(where, fields, columns, meaning)
        return
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        raise DataError(f"{where}: {columns.annotations} must be a list of objects, found {shown(annotations)}")
    if annotations:
        _check_names(where, [fields, *annotations], columns)
    for number_, annotation in enumerate(annotations):
        yield from _vote(f"{where}: {columns.annotations}[{number_}]", annotation, columns, meaning)


def _check_names(where: str, found: Sequence[Mapping[str, Any]], columns: ComparisonColumns) -> None:
    """Raises DataError where the user named a column that neither the row nor any of its annotations has."""
    for name in ("label", "strength", "probability", "annotator"):
        column = getattr(columns, name)
        named = column not in (None, getattr(ComparisonColumns, name))
        if named and not any(holds(fields, column) for fields in found):
            raise DataError(f"{where}: lacks the column {column!r} {nearest(column, set().union(*found))}")


def _vote(where: str, fields: dict[str, Any], columns: ComparisonColumns, meaning: Mapping[str, int]) -> Iterator[Vote]:
    """The vote in the fields, if there is one."""
    who = annotator(where, "annotator", _there(fields, columns.annotator), fields)
    column = _there(fields, columns.probability)
    likely = probability(where, str(column), optional(where, "probability", column, fields))
    if likely is not None:
        yield Vote((likely > 0.5) - (likely < 0.5), probability=likely, annotator=who)
        return
    if holds(fields, columns.strength):
        strength = number(where, columns.strength, at(fields, columns.strength))
        if strength is not None:
            yield Vote((strength > 0) - (strength < 0), strength, annotator=who)
            return
    if not holds(fields, columns.label):
        if holds(fields, columns.strength):
            return
        lacks = f"lacks {columns.label!r} and {columns.strength!r} {nearest(columns.label, fields)}"
        raise DataError(f"{where}: {lacks}; name them in `columns`")
    label = at(fields, columns.label)
    if label is None or label == "":
        return
    word = str(label).strip().lower()
    if word not in meaning:
        raise DataError(
            f"{where}: {columns.label} is {shown(label)} {nearest(word, meaning)}; give its meaning in `labels`"
        )
    yield Vote(meaning[word], annotator=who)


def _there(fields: Mapping[str, Any], column: str | None) -> str | None:
    """The column if the fields have it."""
    return column if column is not None and holds(fields, column) else None
