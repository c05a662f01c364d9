"""Rows with one answer or none, in the shapes that people have, and what a training on them does with a label."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from templates import chat_base

from rlhf_plugins.components.data_format import Prompts, Rankings, Ratings, Supervised
from rlhf_plugins.contract.rows import Group, Origin
from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.batches.lengths import EQUAL
from rlhf_plugins.data.batches.rendered import UNWRITTEN, looks, obstacles
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.formats.preference import read_pairs
from rlhf_plugins.data.formats.supervised import read_answers, read_prompts
from rlhf_plugins.data.sources import PairColumns, SupervisedColumns
from rlhf_plugins.engine.weights.loading import load_row_encoder
from rlhf_plugins.errors import DataError
from rlhf_plugins.recipe.assemble import component

Row = dict[str, Any]
ASKED, YES = {"role": "user", "content": "why"}, {"role": "assistant", "content": "yes"}
SYSTEM = {"role": "system", "content": "s"}
SHARED = {"conversations": [{"from": "human", "value": "why"}, {"from": "gpt", "value": "yes"}]}

ANSWERED: list[tuple[Row, Any, Any]] = [
    ({"messages": [ASKED, YES]}, [ASKED], [YES]),
    (SHARED, [ASKED], [YES]),
    ({"system": "s", **SHARED}, [SYSTEM, ASKED], [YES]),
    ({"prompt": "why", "completion": "yes"}, "why", "yes"),
    ({"prompt": [ASKED], "completion": [YES]}, [ASKED], [YES]),
    ({"instruction": "why", "input": "", "output": "yes"}, "why", "yes"),
    ({"instruction": "why", "input": "x", "output": "yes"}, "why\n\nx", "yes"),
]


@pytest.mark.parametrize(("row", "prompt", "response"), ANSWERED)
def test_an_answer_in_any_shape(row: Row, prompt: Any, response: Any) -> None:
    assert Supervised.recognises(row)
    ((_, group),) = read_answers([("f:1", row)], Dropped())
    assert (group.prompt, group.responses, group.label) == (prompt, (response,), None)


@pytest.mark.parametrize(("label", "expected"), [(True, True), ("false", False), (0, False), (None, None)])
def test_a_label_says_whether_an_answer_is_desirable(label: Any, expected: bool | None) -> None:
    ((_, group),) = read_answers([("f:1", {"prompt": "p", "completion": "c", "label": label})], Dropped())
    assert group.label is expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [ASKED]}, "a turn of the role 'user'"),
        ({"prompt": "p", "completion": "a", "output": "b"}, "has completion and output; a row needs one of"),
        ({"prompt": "p", "completoin": "a"}, "has no answer .did you mean completoin"),
        ({"messages": [ASKED, YES], "prompt": "other"}, "prompt is no turn of messages"),
        ({"prompt": "p", "completion": "a", "system": 3}, "system must be text, found '3'"),
        (
            {"prompt": "p", "completion": "a", "label": "good"},
            "label must be true or false, or thumbs up or down, found",
        ),
    ],
)
def test_a_row_without_one_answer_is_refused(row: Row, message: str) -> None:
    with pytest.raises(DataError, match=f"f:1: .*{message}"):
        list(read_answers([("f:1", row)], Dropped()))


RATED: list[Row] = [
    {"score": 4, "label": "politeness"},
    {"rating": "4.5", "thumbs": True},
    {"score": None, "label": 1},
    {"helpfulness": 3, "label": 0},
]


@pytest.mark.parametrize("judged", RATED)
def test_a_score_beside_a_label_is_a_rating(judged: Row) -> None:
    row = {"prompt": "p", "response": "r", **judged}
    assert (Ratings.recognises(row), Supervised.recognises(row)) == (True, False)


def test_a_label_alone_is_no_rating_and_a_score_beside_a_rank_is_one() -> None:
    row = {"prompt": "p", "response": "r", "label": 1, "seconds": 3}
    assert (Ratings.recognises(row), Supervised.recognises(row)) == (False, True)
    answers = [{"text": text, "score": score, "rank": 3 - score} for text, score in (("a", 1), ("b", 2))]
    listed = {"prompt": "p", "responses": answers}
    assert (Ratings.recognises(listed), Rankings.recognises(listed)) == (True, False)


def test_columns_of_other_names_are_the_answer_and_its_label() -> None:
    columns = SupervisedColumns(prompt="ask", response="said.text", label="thumb")
    row = {"ask": "why", "said": {"text": "yes"}, "thumb": 0, "completion": "other"}
    ((_, group),) = read_answers([("f:1", row)], Dropped(), columns)
    assert (group.prompt, group.responses, group.label) == ("why", ("yes",), False)


@pytest.mark.parametrize("prompt", ["why", [ASKED]])
def test_a_prompt_beside_its_conversation_is_a_part_of_it(prompt: Any) -> None:
    ((_, group),) = read_answers([("f:1", {"prompt": prompt, "messages": [ASKED, YES]})], Dropped())
    assert (group.prompt, group.columns) == ([ASKED], {})


def test_a_row_with_any_response_is_no_prompt() -> None:
    assert not Prompts.recognises({"prompt": "p", "response_1": "a"})


def load(path: Path, use: str, rows: list[Row]) -> Any:
    (path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return component("data_format", {"use": use, "source": str(path / "a.jsonl")}).load(Base(""), 0)


def test_answers_that_are_labelled_both_ways_are_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": p, "completion": "c", "label": label} for p, label in (("p", 1), ("p", 0), ("q", 1), ("r", 0))]
    data = load(tmp_path, "supervised", rows)
    assert (len(data.train) + len(data.test), data.dropped) == (2, {"contradicted by another row": 2})


def test_a_prompt_with_two_answers_is_two_prompts(tmp_path: Path) -> None:
    data = load(
        tmp_path, "prompts", [{"prompt": "p", "answer": n % 2} for n in range(4)] + [{"prompt": "q", "answer": 3}]
    )
    found = sorted(group.columns["answer"] for split in data.prompts.values() for group in split)
    assert (found, data.dropped) == ([0, 1, 3], {"repeated row": 2})


def test_prompts_keep_their_columns_through_a_file(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} + 1 =", "answer": n + 1} for n in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert Prompts.recognises(rows[0])
    data = component("data_format", {"use": "prompts", "source": str(tmp_path / "a.jsonl")}).load(Base(""), 0)
    found = {str(group.prompt): group.columns["answer"] for split in data.prompts.values() for group in split}
    assert found == {row["prompt"]: row["answer"] for row in rows}
    assert len(data.prompts["test"]) == 2


def test_a_row_without_a_prompt_is_refused() -> None:
    with pytest.raises(DataError, match="f:1: has no `prompt` .did you mean promt"):
        list(read_prompts([("f:1", {"promt": "p"})], Dropped()))


def test_what_a_template_does_to_responses_is_counted_and_shown(tmp_path: Path) -> None:
    said = [[{"role": "assistant", "content": f"{word} </think> bee"}] for word in ("ant", "cat")]
    group, encoder = (
        Group([{"role": "user", "content": "who"}], tuple(said), (0, 1)),
        load_row_encoder(chat_base(tmp_path, "r1")),
    )
    found = obstacles([replace(group, origin=Origin("a.jsonl", 7))], encoder)
    assert (found, found.places) == ({EQUAL: 1, UNWRITTEN: 2}, {EQUAL: ["a.jsonl:7"], UNWRITTEN: ["a.jsonl:7"]})
    assert list(looks([group], encoder)) == ["'<ask> who <answer>|bee <eos>'"] * 2
    assert list(looks([group], None))[0] == "'who|ant </think> bee'"


def test_a_list_of_texts_is_no_answer_and_two_may_be_a_pair() -> None:
    row = {"instruction": "say", "output": ["ant", "dog"]}
    with pytest.raises(DataError, match="f:1: output is a list of 2 texts, and one answer is imitated") as caught:
        list(read_answers([("f:1", row)], Dropped()))
    assert '`columns: {chosen: "output[0]", rejected: "output[1]"}` with the format preference' in str(caught.value)
    columns = PairColumns(chosen="output[0]", rejected="output[1]")
    ((_, group),) = read_pairs([("f:1", row)], Dropped(), columns)
    assert (group.prompt, group.responses, group.ranks) == ("say", ("ant", "dog"), (0, 1))
    with pytest.raises(DataError, match="one answer is imitated$"):
        list(read_answers([("f:1", {"prompt": "say", "response": ["ant", "dog", "bee"]})], Dropped()))
