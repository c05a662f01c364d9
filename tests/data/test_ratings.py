"""Ratings to groups: rows and lists, dotted paths, missing values, means, and refusals that name file and line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf_plugins.components.data_format import Ratings
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.formats.ratings import read_ratings
from rlhf_plugins.data.sources import RatingColumns
from rlhf_plugins.errors import DataError
from rlhf_plugins.recipe.assemble import component

Row = dict[str, Any]


def read(*rows: Row, dropped: Dropped | None = None, **options: Any) -> list[Group]:
    placed = ((f"f:{n}", row) for n, row in enumerate(rows, 1))
    return [group for _, group in read_ratings(placed, Dropped() if dropped is None else dropped, **options)]


def row(response: str, score: Any, prompt: str = "p", **more: Any) -> Row:
    return {"prompt": prompt, "response": response, "score": score, **more}


def test_rows_of_one_prompt_become_one_group() -> None:
    first, second = read(row("x", 1), row("z", 5, prompt="q"), row("y", "2.5"))
    assert (first.prompt, first.responses, first.ratings) == ("p", ("x", "y"), {"score": (1.0, 2.5)})
    assert (second.prompt, second.responses, second.ratings) == ("q", ("z",), {"score": (5.0,)})


def test_the_same_response_again_is_another_annotator() -> None:
    (group,) = read(row("x", 1, weight=1), row("y", 5, weight=3), row("x", 4, weight=2), row("x", None, weight=2))
    assert group.ratings == {"score": (2.5, 5.0)}
    assert group.weight == 2.0


def test_one_prompt_under_two_topics_is_two_groups() -> None:
    assert [g.topic for g in read(row("x", 1, topic="s"), row("y", 2, topic="t"))] == ["s", "t"]


def test_system_turns_and_tools_are_part_of_the_prompt() -> None:
    asked, tool = {"role": "user", "content": "p"}, {"type": "function", "function": {"name": "tide"}}
    first, second = read(row("x", 1, system="S"), row("y", 2, system="T"))
    assert first.prompt == [{"role": "system", "content": "S"}, asked]
    assert (second.prompt[0]["content"], second.columns) == ("T", {})
    assert second.responses == ([{"role": "assistant", "content": "y"}],)
    (called,) = read(row("x", 1, prompt=[asked], tools=[tool]))
    assert called.prompt == [{**asked, "tools": [tool]}]


def test_ratings_in_several_dimensions_may_be_missing() -> None:
    first, second = row("x", None, clear=1, true=""), row("y", None, clear=None)
    (group,) = read(first, second, dimensions=["clear", "true"])
    assert group.ratings == {"clear": (1.0, None), "true": (None, None)}


def test_a_list_of_responses_with_reviews_inside() -> None:
    reviews = [{"true-rating": 10, "notes": {"clear": 1}}, {"true-rating": 50, "notes": {"clear": None}}]
    listed = [{"text": "x", "reviews": reviews}, {"text": "y", "reviews": [{"true-rating": 90}]}]
    paths = {"true": "reviews.true-rating", "clear": "reviews.notes.clear"}
    (group,) = read({"prompt": "p", "responses": listed}, dimensions=paths)
    assert (group.responses, group.ratings) == (("x", "y"), {"true": (30.0, 90.0), "clear": (1.0, None)})


def test_lists_beside_the_responses() -> None:
    given = {"prompt": "p", "responses": ["x", "y"], "score": [1, None], "more": {"true": [3, 4]}}
    (group,) = read(given, dimensions={"score": "score", "true": "more.true"})
    assert group.ratings == {"score": (1.0, None), "true": (3.0, 4.0)}


def test_a_row_with_a_list_stays_a_group_of_its_own() -> None:
    given = [{"prompt": "p", "responses": [{"text": t, "score": 1}]} for t in "xy"]
    assert [group.responses for group in read(*given)] == [("x",), ("y",)]


def test_rows_without_use_are_counted() -> None:
    dropped = Dropped()
    (group,) = read(row("x", 1), row(" ", 2), row("y", None, prompt="q"), dropped=dropped)
    assert group.responses == ("x",)
    assert dropped == {"empty prompt or response": 1, "no rating": 1}


@pytest.mark.parametrize("bad", [math.nan, math.inf, "-inf", "good", True, {"a": 1}])
def test_a_rating_that_is_no_finite_number_is_refused(bad: Any) -> None:
    with pytest.raises(DataError, match=r"^f:2: score must be a finite number, found "):
        read(row("x", 1), row("y", bad))


@pytest.mark.parametrize(
    ("bad", "options", "message"),
    [
        (row("x", 1), {"dimensions": ["scor"]}, r"f:1: has no rating at 'scor' \(did you mean score\?.*`dimensions`"),
        ({"prompt": "p", "responses": []}, {}, r"f:1: responses must be a list of responses, found '\[\]'"),
        (
            {"prompt": "p", "responses": [{"txt": "x"}]},
            {},
            r"responses\[0\]: lacks the column 'text' \(did you mean txt",
        ),
        ({"prompt": "p", "responses": ["x", "y"], "score": [1]}, {}, "score must be a list of 2 ratings"),
        ({"prompt": "p", "responses": ["x"], "scores": [1]}, {}, "f:1: lacks the column 'score' .did you mean scores"),
        ({"prompt": "p", "responses": [3]}, {}, r"f:1: responses\[0\] must be text or a list of messages, found int"),
        ({"prompt": "p", "score": 3}, {}, "f:1: lacks the column 'response'"),
    ],
)
def test_a_broken_row_is_refused(bad: Row, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(bad, **options)


def test_columns_of_other_names() -> None:
    columns = RatingColumns(prompt="instruction", responses="completions", text="answer")
    given = {"instruction": "p", "completions": [{"answer": "x", "score": 1}]}
    assert read(given, columns=columns)[0].responses == ("x",)


HELPFUL = {"prompt": "p", "correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 4}
JUDGED = {name: {"Rating": "4", "Rationale": ""} for name in ("honesty", "instruction_following", "truthfulness")}


def known(path: Path, *rows: dict[str, Any], **options: Any) -> Group:
    asked = "instruction" if "instruction" in rows[0] else "prompt"
    (path / "a.jsonl").write_text("\n".join(map(json.dumps, [*rows, {**rows[0], asked: "q"}])))
    assert Ratings.recognises(rows[0])
    data = component("data_format", {"use": "ratings", "source": str(path / "a.jsonl"), **options}).load(Base(""), 0)
    return next(group for group in (*data.train, *data.test) if group.prompt == "p")


def test_lists_of_other_lengths_are_counted_in_the_message(tmp_path: Path) -> None:
    message = r"a\.jsonl:1: 3 responses and 2 scores: score must be a list of 3 ratings"
    with pytest.raises(DataError, match=message):
        known(tmp_path, {"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, 2]})


def test_the_row_of_the_page_is_read_with_the_dimensions_that_the_message_shows(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/data_formats.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith("| `ratings` | `{")]
    shown, option = json.loads(line.split("`")[3]), line.split("`")[5]
    name, dimensions = next(iter(yaml.safe_load(option).items()))
    rows = {**shown, "prompt": "p"}, {"prompt": "p", "response": "Paint.", "helpful": 1, "honest": 2}
    assert known(tmp_path, *rows, **{name: dimensions}).ratings == {"helpful": (4.0, 1.0), "honest": (5.0, 2.0)}
    with pytest.raises(DataError, match=r"has no rating at 'score' .*such as `dimensions: \{helpful: helpful"):
        known(tmp_path, *rows)


def test_helpsteer_is_ordered_by_helpfulness(tmp_path: Path) -> None:
    short = {**HELPFUL, "response": "a", "helpfulness": 3, "verbosity": 0}
    group = known(tmp_path, short, {**HELPFUL, "response": "b", "helpfulness": 2})
    assert [(c.better, c.worse, c.tied) for c in group.comparisons] == [(0, 1, False)]
    assert group.ratings["verbosity"] == (0.0, 4.0)


def test_helpsteer_may_be_ordered_by_another_of_its_dimensions(tmp_path: Path) -> None:
    rows = [{**HELPFUL, "response": text, "helpfulness": 3, "correctness": n} for n, text in enumerate("ab")]
    group = known(tmp_path, *rows, by=["correctness"])
    assert [(c.better, c.worse, c.tied) for c in group.comparisons] == [(1, 0, False)]
    with pytest.raises(DataError, match="by: unknown dimension 'score' .known: "):
        known(tmp_path, *rows, by=["score"])
    with pytest.raises(DataError, match="by: unknown dimension 'correctness' .known: score"):
        known(tmp_path, row("x", 1), by=["correctness"])


def test_ultrafeedback_is_ordered_by_the_mean_of_what_was_rated(tmp_path: Path) -> None:
    ratings = {"a": "N/A", "b": "5", "c": "1"}
    answers = [
        {"response": text, "annotations": {**JUDGED, "helpfulness": {"Rating": rating}}}
        for text, rating in ratings.items()
    ]
    group = known(tmp_path, {"instruction": "p", "source": "s", "completions": answers})
    assert (group.responses, group.ratings["helpfulness"]) == (("a", "b", "c"), (None, 5.0, 1.0))
    assert group.columns == {"source": "s"}
    assert (1, 2) in [(c.better, c.worse) for c in group.comparisons]
