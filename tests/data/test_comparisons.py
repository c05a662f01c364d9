"""Verdicts of one or several annotators to groups of two: votes, strengths, ties, and what is left out and counted."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf_plugins.contract.rows import Comparison, Group
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.formats.comparisons import read_comparisons
from rlhf_plugins.data.sources import ComparisonColumns
from rlhf_plugins.errors import DataError

Row = dict[str, Any]


def row(*labels: Any, **more: Any) -> Row:
    """A row with a label, or with an annotation for each of several."""
    said: Row = {"label": labels[0]} if len(labels) == 1 else {"annotations": [{"label": label} for label in labels]}
    return {"prompt": "p", "response_a": "x", "response_b": "y", **said, **more}


def strengths(*values: Any) -> Row:
    return row("a", annotations=[{"strength_a_minus_b": value} for value in values])


def read(*rows: Row, dropped: Dropped | None = None, **options: Any) -> list[Group]:
    placed = ((f"f:{n}", row) for n, row in enumerate(rows, 1))
    return [group for _, group in read_comparisons(placed, Dropped() if dropped is None else dropped, **options)]


@pytest.mark.parametrize(
    ("label", "ranks"),
    [("a", (0, 1)), ("b", (1, 0)), ("tie", (0, 0)), ("A1", (0, 1)), (" equal ", (0, 0)), ("response_b", (1, 0))],
)
def test_a_label_ranks_the_two_responses(label: str, ranks: tuple[int, int]) -> None:
    (group,) = read(row(label, topic="t", difficulty=2, weight=0.5))
    assert (group.responses, group.ranks) == (("x", "y"), ranks)
    assert (group.weight, group.topic, group.difficulty) == (0.5, "t", 2.0)


@pytest.mark.parametrize(
    ("labels", "ranks", "weight"),
    [
        ("aaa", (0, 1), 1.0),
        ("aab", (0, 1), 1 / 3),  # (2 - 1) / 3
        ("bbbaa", (1, 0), 0.2),
        ("ttb", (0, 0), 1 / 3),
        ("bbat", (1, 0), 0.25),  # the next label has one vote of four
    ],
)
def test_labels_are_voted(labels: str, ranks: tuple[int, int], weight: float) -> None:
    (group,) = read(row(*labels.replace("t", "=")), labels={"a": "a", "b": "b", "=": "tie"})
    assert group.ranks == ranks
    assert group.weight == pytest.approx(weight)


def annotators(*given: tuple[Any, float]) -> list[Row]:
    return [row(label, annotator=f"n{n}", weight=weight, difficulty=n) for n, (label, weight) in enumerate(given)]


def test_rows_of_a_pair_are_as_many_votes_as_their_weight() -> None:
    dropped = Dropped()
    (group,) = read(*annotators(("a", 1.0), ("b", 0.0), ("b", 0.0)), dropped=dropped)
    assert (group.ranks, group.weight, dict(dropped)) == ((0, 1), 1.0, {"weight 0": 2})
    (group,) = read(*annotators(("a", 0.5), ("b", 2.0), ("b", 0.5)))
    assert group.ranks == (1, 0)
    assert group.weight == pytest.approx(1.0 * (2.5 - 0.5) / 3)  # the mean weight, times the margin of 3 votes
    assert group.difficulty == 1.0
    (group,) = read(*annotators(("a", 0.1), ("a", 5.0)))
    assert group.weight == pytest.approx(2.55)
    assert not read(*annotators(("a", 0.3), ("b", 0.1), ("b", 0.2)))  # even


def test_strengths_count_by_the_weight_of_their_rows() -> None:
    rows = [{**strengths(s), "annotator": f"n{s}", "weight": w} for s, w in ((2.0, 3.0), (-4.0, 1.0))]
    (group,) = read(*rows)
    assert (group.ranks, group.margin) == ((0, 1), pytest.approx(0.5))  # (3 x 2 - 4) / 4
    assert group.weight == pytest.approx(2.0 * 2 / 10)


@pytest.mark.parametrize(
    ("values", "ranks", "margin", "weight"),
    [
        ((2,), (0, 1), 2.0, 1.0),
        ((-2, -1), (1, 0), 1.5, 1.0),
        ((2, -1, 0), (0, 1), 1 / 3, 1 / 3),  # sum 1 of 3 in all
        ((0, 0), (0, 0), 0.0, 1.0),
        ((1, None), (0, 1), 1.0, 1.0),
    ],
)
def test_strengths_are_averaged(values: Any, ranks: tuple[int, int], margin: float, weight: float) -> None:
    (group,) = read(strengths(*values))
    assert group.ranks == ranks
    assert (group.margin, group.weight) == pytest.approx((margin, weight))


def test_the_weight_of_a_row_multiplies_the_agreement() -> None:
    assert read(row(*"aab", weight=3))[0].weight == pytest.approx(1.0)


def test_rows_of_several_annotators_are_put_together_in_either_order() -> None:
    rows = [row("a", annotator="1"), row("a", annotator="2"), row("b", annotator="3")]
    turned = row("b", annotator="4", response_a="y", response_b="x")  # for x, as are 1 and 2
    dropped = Dropped()
    (group,) = read(*rows, turned, row("b", annotator="3"), dropped=dropped)
    assert (group.responses, group.ranks, group.weight) == (("x", "y"), (0, 1), 0.5)  # (3 - 1) / 4
    assert dropped == {"an annotator judges a pair again": 1}


def test_a_system_column_opens_the_prompt_before_rows_are_put_together() -> None:
    first, second = read(row("a", annotator="1", system="S"), row("b", annotator="2", system="T"))
    assert first.prompt == [{"role": "system", "content": "S"}, {"role": "user", "content": "p"}]
    assert (second.prompt[0]["content"], second.columns, second.ranks) == ("T", {}, (1, 0))


def test_rows_without_annotators_stay_apart() -> None:
    assert len(read(row("a"), row("b"))) == 2


def test_what_says_nothing_is_counted_with_its_place() -> None:
    rows = [row("a", response_b="x"), row("a", prompt=" "), row(None), row(""), row(*"ab"), strengths(1, -1)]
    dropped = Dropped()
    assert read(*rows, row("a", annotations=[]), row("a", response_a=True), dropped=dropped) == []
    assert dropped == {
        "both responses are equal": 1,
        "empty prompt or response": 1,
        "no annotator gave a verdict": 3,
        "annotators are evenly divided": 2,
        "a number, true or false in the place of a text": 1,
    }
    assert dropped.places["no annotator gave a verdict"] == ["f:3", "f:4", "f:7"]


def test_columns_of_other_names() -> None:
    columns = ComparisonColumns(prompt="q", response_a="l", response_b="r", label="gold", annotations=None)
    (group,) = read({"q": "p", "l": "x", "r": "y", "gold": "b", "annotations": "unread"}, columns=columns)
    assert (group.prompt, group.responses, group.ranks) == ("p", ("x", "y"), (1, 0))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("c"), r"f:1: label is 'c' \(known: a, a1, .*give its meaning in `labels`"),
        (
            row("a", annotations=[{"label": "a"}, {"label": "eqal"}]),
            r"annotations\[1\]: label is 'eqal' \(did you mean eq",
        ),
        (row("a", annotations=[{"labl": "a"}]), "lacks 'label' and 'strength_a_minus_b' .did you mean labl"),
        (row("a", annotations="a"), "annotations must be a list of objects, found 'a'"),
        (strengths(float("nan")), "strength_a_minus_b must be a finite number, found 'nan'"),
        (strengths(1, "strong"), r"annotations\[1\]: strength_a_minus_b must be a finite number"),
        (row("a", weight=-1), "f:1: weight must be at least 0, found -1"),
        (row("a", topic=["t"]), "f:1: topic must be text or a whole number"),
        (row("a", response_b=[{"role": "user", "content": "x"}]), "response_a is text, response_b is messages"),
        ({"prompt": "p", "response_a": "x"}, "f:1: lacks the column 'response_b' .did you mean response_a"),
    ],
)
def test_a_broken_row_is_refused(bad: Row, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(bad)


def test_a_column_named_by_the_user_must_be_there() -> None:
    with pytest.raises(DataError, match=r"lacks the column 'subject'"):
        read(row("a"), columns=ComparisonColumns(topic="subject"))
    assert read(row("a", topic="t"), columns=ComparisonColumns(topic=None))[0].topic is None


@pytest.mark.parametrize("name", ["label", "strength", "probability", "annotator", "annotations"])
@pytest.mark.parametrize("given", [row("a", annotator="ann"), row("a", annotations=[{"label": "a", "who": "ann"}])])
def test_a_misspelled_column_of_a_judgement_is_refused(given: Row, name: str) -> None:
    columns = ComparisonColumns(**{name: "labels"})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"f:1: lacks the column 'labels' \(did you mean label\?"):
        read(given, columns=columns)


def test_a_column_of_another_name_may_be_in_the_annotations_alone() -> None:
    columns = ComparisonColumns(label="verdict", annotator="who")
    given = [{**row(annotations=[{"verdict": "b", "who": "ann"}]), "prompt": "p"}, row(annotations=[])]
    (group,) = read(*given, columns=columns)
    assert group.comparisons == (Comparison(1, 0, annotator="ann"),)


def test_judgements_at_paths() -> None:
    columns = ComparisonColumns(label="said.word", annotator="who.name", topic=None)
    rows = [
        row("x", said={"word": word}, who={"name": name}) for word, name in (("a", "ann"), ("a", "bob"), (None, "cat"))
    ]
    (group,) = read(*rows, columns=columns)
    assert (group.ranks, group.weight) == ((0, 1), 1.0)
    with pytest.raises(DataError, match="f:1: lacks the column 'said.wrod'"):
        read(rows[0], columns=ComparisonColumns(label="said.wrod"))


def test_rows_with_an_empty_annotator_stay_apart() -> None:
    assert len(read(row("a", annotator=""), row("a", annotator=""))) == 2


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"probability": 0.75}, Comparison(0, 1, probability=0.75)),
        ({"probability": 0.25, "annotator": "ann"}, Comparison(1, 0, probability=0.75, annotator="ann")),
        ({"probability": 0.5}, Comparison(0, 1, tied=True, probability=0.5)),
        ({"probability": 1, "label": "b"}, Comparison(0, 1)),  # a probability is more than a label
        ({"probability": None, "label": "b", "annotator": "ann"}, Comparison(1, 0, annotator="ann")),
        ({"annotations": [{"probability": 0.5}, {"label": "a"}]}, Comparison(0, 1, probability=0.75)),
    ],
)
def test_a_probability_is_a_soft_label(fields: dict[str, Any], expected: Comparison) -> None:
    row = ("f:1", {"prompt": "p", "response_a": "x", "response_b": "y", **fields})
    ((_, group),) = read_comparisons([row], Dropped())
    assert group.comparisons == (expected,)


def test_votes_apart_are_one_comparison_each() -> None:
    rows = [
        ("f:1", {"prompt": "p", "response_a": "x", "response_b": "y", "label": "a", "annotator": "ann"}),
        ("f:2", {"prompt": "p", "response_a": "y", "response_b": "x", "label": "a", "annotator": "bob", "weight": 2}),
    ]
    ((_, group),) = read_comparisons(rows, Dropped(), votes="apart")
    assert group.compared == (Comparison(0, 1, annotator="ann"), Comparison(1, 0, weight=2.0, annotator="bob"))
