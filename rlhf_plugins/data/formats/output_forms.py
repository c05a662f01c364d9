"""The forms that groups are written in as rows, and what of the groups each form does not hold.

What is lost is found by reading the rows again: a fact of the groups that the rows do not give back is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlhf_plugins.contract.rows import Comparison, Group
from rlhf_plugins.data.convert import Row, filled, pairs, preference_rows, ranking_rows, rating_rows, with_extras
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import key
from rlhf_plugins.data.formats.comparisons import read_comparisons
from rlhf_plugins.data.formats.supervised import LABEL
from rlhf_plugins.data.sources import RatingColumns
from rlhf_plugins.data.splits import prompts_of

Fact = tuple[str, ...]  # a word for its kind, the prompt, and the rest of it


@dataclass(frozen=True)
class Form:
    """A form of rows, and the `data_format` that reads it without an option, but for the `dimensions` of ratings."""

    format: str
    write: Callable[[Sequence[Group]], list[Row]]
    kind: str  # of `READERS`


def comparison_rows(groups: Iterable[Group]) -> list[Row]:
    """A row for each comparison, ties too, with `response_a`, `response_b`, `label` and, where known, its strength."""
    return filled([_comparison_row(pair) for pair in pairs(groups, ties=True)])


def answer_rows(groups: Iterable[Group]) -> list[Row]:
    """The response of each group, with its label, or the best of several, with `prompt` and `completion`."""
    from rlhf_plugins.data.batches.groups import best_response

    rows = []
    for group in groups:
        response = group.responses[0] if len(group.responses) == 1 else best_response(group)
        if response is not None:
            rows.append(_answer_row(group, response, group.label))
    return filled(rows)


def label_rows(groups: Iterable[Group]) -> list[Row]:
    """Responses with a label; of several responses those that are only better than others, or only worse."""
    from rlhf_plugins.data.batches.groups import labels

    rows = []
    for group in groups:
        found = labels(group)
        seen = Counter(key(response) for response, _ in found)
        rows += [_answer_row(group, response, label) for response, label in found if seen[key(response)] == 1]
    return filled(rows)


def prompt_rows(groups: Iterable[Group]) -> list[Row]:
    """Each prompt once, with the further columns in which its groups agree."""
    return filled([with_extras({"prompt": group.prompt}, group) for group in prompts_of(groups)])


FORMS: Mapping[str, Form] = {
    "pairs": Form("preference", preference_rows, "pairs"),
    "comparisons": Form("comparisons", comparison_rows, "comparisons"),
    "ratings": Form("ratings", rating_rows, "ratings"),
    "rankings": Form("rankings", ranking_rows, "rankings"),
    "supervised": Form("supervised", answer_rows, "answers"),
    "labels": Form("supervised", label_rows, "answers"),
    "prompts": Form("prompts", prompt_rows, "prompts"),
}


def read_again(form: Form, rows: Sequence[Row], groups: Iterable[Group] = ()) -> list[Group]:
    """The groups that the rows of a form are read as; ratings by the dimensions that `groups` have."""
    from rlhf_plugins.data.formats.kinds import READERS, read_rated

    placed = [(f"row:{number}", row) for number, row in enumerate(rows, 1)]
    read = READERS[form.kind]
    if form.kind == "ratings":
        names = list(dict.fromkeys(name for group in groups for name in group.ratings))
        read = partial(read_rated, columns=RatingColumns(), dimensions=names, gap=0.0, by=None, margins=True)
    elif form.kind == "comparisons":
        read = partial(read_comparisons, votes="apart")
    return [group for _, group in read(placed, Dropped())] if rows else []


def lost(groups: Sequence[Group], form: Form, rows: Sequence[Row]) -> dict[str, int]:
    """How many facts of the groups the rows do not give back, by kind, in the order of `facts`."""
    kept = facts(read_again(form, rows, groups))
    return dict(Counter(kind for kind, *rest in facts(groups) if (kind, *rest) not in kept))


def facts(groups: Iterable[Group]) -> dict[Fact, None]:
    """What is known of the responses to each prompt, each fact once and in order."""
    return dict.fromkeys(fact for group in groups for fact in _facts(group))


def _facts(group: Group) -> Iterator[Fact]:
    asked, named = key(group.prompt), [key(response) for response in group.responses]
    yield "prompt", asked
    for response in named:
        yield "response", asked, response
    if len(named) > 2:
        yield "group of responses judged together", asked, *sorted(named)
    for comparison in group.comparisons:
        yield from _judged(comparison, asked, named)
    if group.weight != 1 and not group.comparisons:
        yield "weight", asked, *named, str(group.weight)
    rated = {name: values for name, values in group.ratings.items() if group.label is None or name != LABEL}
    for name, values in rated.items():
        for response, value in zip(named, values, strict=True):
            if value is not None:
                yield "rating", asked, response, name, str(value)
    single = {"topic": group.topic, "difficulty": group.difficulty, "label": group.label}
    for name, known in single.items():
        if known is not None:
            yield name, asked, *(named if name == "label" else ()), str(known)
    for name, known in group.columns.items():
        if known is not None:
            yield "value of a further column", asked, name, repr(known)


def _judged(c: Comparison, asked: str, named: Sequence[str]) -> Iterator[Fact]:
    both = [named[c.better], named[c.worse]]
    pair = sorted(both) if c.tied else both
    yield "tie" if c.tied else "preference", asked, *pair
    if c.margin and not c.tied:
        yield "margin", asked, *pair, str(c.margin)
    if c.probability is not None and not c.tied:
        yield "soft label", asked, *pair, str(c.probability)
    if c.annotator is not None:
        yield "annotator", asked, *pair, c.annotator
    if c.weight != 1:
        yield "weight", asked, *pair, str(c.weight)


def _comparison_row(pair: Group) -> Row:
    (comparison,) = pair.comparisons
    ahead = None if comparison.tied or not comparison.margin or comparison.margin < 0 else comparison.margin
    judged: dict[str, Any] = {
        "label": "tie" if comparison.tied else "a",
        "strength_a_minus_b": ahead,
        "probability": comparison.probability,
        "annotator": comparison.annotator,
    }
    texts = {"prompt": pair.prompt, "response_a": pair.responses[0], "response_b": pair.responses[1]}
    return with_extras({**texts, **judged}, pair)


def _answer_row(group: Group, response: Any, label: bool | None) -> Row:
    return with_extras({"prompt": group.prompt, "completion": response, "label": label}, group)
