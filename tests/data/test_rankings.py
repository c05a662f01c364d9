"""Rankings to groups: orders, places, judgements of pairs, and refusals of rankings that cannot be meant."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rlhf_plugins.contract.rows import Comparison, Group
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.formats.rankings import read_rankings
from rlhf_plugins.errors import DataError

Row = dict[str, Any]


def read(*rows: Row, dropped: Dropped | None = None, **options: Any) -> list[Group]:
    placed = ((f"f:{n}", row) for n, row in enumerate(rows, 1))
    return [group for _, group in read_rankings(placed, Dropped() if dropped is None else dropped, **options)]


def row(**how: Any) -> Row:
    return {"prompt": "p", "responses": ["x", "y", "z"], **how}


@pytest.mark.parametrize(
    ("how", "ranks"),
    [
        ({"ranking": [2, 0, 1]}, (1, 2, 0)),
        ({"ranks": [3, 1, 3]}, (1, 0, 1)),
        ({"ranks": [1.5, None, 4]}, (0, None, 1)),
        ({"ranks": [0, 1, 2], "ranking": None}, (0, 1, 2)),
    ],
)
def test_an_order_and_places(how: Row, ranks: tuple[int | None, ...]) -> None:
    (group,) = read(row(**how, topic=3))
    assert (group.responses, group.ranks, group.compared, group.topic) == (("x", "y", "z"), ranks, None, "3")


def test_judgements_of_pairs() -> None:
    said = [{"i": 0, "j": 1, "winner": 1}, {"i": 2, "j": 0, "winner": None}, {"i": 1, "j": 2, "winner": 1, "margin": 2}]
    (group,) = read(row(pairwise=said, weight=0.5))
    assert group.ranks is None
    assert group.compared == (
        Comparison(1, 0, weight=0.5),
        Comparison(2, 0, tied=True, weight=0.5),
        Comparison(1, 2, margin=2.0, weight=0.5),
    )


def test_judgements_that_disagree_are_left_out_and_counted() -> None:
    said = [(0, 1, 0), (1, 0, 1), (0, 2, 0), (2, 0, 0), (1, 2, None), (2, 1, None)]
    dropped = Dropped()
    (group,) = read(row(pairwise=[dict(zip("ijw", s, strict=True)) | {"winner": s[2]} for s in said]), dropped=dropped)
    assert group.compared == (Comparison(0, 2), Comparison(1, 2, tied=True))  # 0 and 1 are ordered both ways
    assert dropped == {"a pair is judged again in its row": 3}


def test_responses_in_objects_and_messages() -> None:
    said = [[{"role": "assistant", "content": text}] for text in "xy"]
    asked = [{"role": "user", "content": "hi"}]
    assert read({"prompt": asked, "responses": said, "ranking": [1, 0]})[0].responses == tuple(said)
    objects = [{"text": "x", "system": 1}, {"text": "y"}]
    assert read({"prompt": "p", "responses": objects, "ranking": [1, 0]})[0].responses == ("x", "y")


def test_a_system_column_opens_the_prompt() -> None:
    first, second = read(row(ranking=[0, 1, 2], system="S"), row(ranking=[0, 1, 2]))
    asked = {"role": "user", "content": "p"}
    assert (first.prompt, second.prompt) == ([{"role": "system", "content": "S"}, asked], [asked])
    assert first.columns == {}


def test_rows_without_use_are_counted() -> None:
    dropped = Dropped()
    same, blank = row(ranking=[0, 1, 2]) | {"responses": ["x", "y", "x"]}, row(ranking=[0, 1, 2], prompt="\n")
    assert read(same, blank, row(ranks=[None, 1, None]), row(pairwise=[]), dropped=dropped) == []
    assert dropped == {
        "a response appears twice": 1,
        "empty prompt or response": 1,
        "fewer than two responses are compared": 2,
    }


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"ranking": [0, 1, 3]}, "f:1: ranking names the response '3'; there are 3, numbered from 0"),
        ({"ranking": [0, 1, -1]}, "ranking names the response '-1'"),
        ({"ranking": [0, 1, 1]}, "f:1: ranking names the response 1 twice"),
        ({"ranking": [0, 1]}, "f:1: ranking has 2 entries for 3 responses"),
        ({"ranking": [0, 1, 2.0]}, "ranking names the response '2.0'"),
        ({"ranking": "0,1,2"}, "f:1: ranking must be a list, found '0,1,2'"),
        ({"ranks": [1, 2, 3, 4]}, "f:1: ranks has 4 entries for 3 responses"),
        ({"ranks": [1, math.nan, 3]}, r"f:1: ranks\[1\] must be a finite number, found 'nan'"),
        ({"ranks": [1, 2, 3], "ranking": [0, 1, 2]}, "f:1: has ranking and ranks; a row needs one of"),
        ({"rankng": [0, 1, 2]}, r"f:1: has none \(did you mean rankng\?"),
        ({"pairwise": [{"i": 0, "j": 0, "winner": 0}]}, r"pairwise\[0\] compares the response 0 with itself"),
        ({"pairwise": [{"i": 0, "j": 9, "winner": 0}]}, r"pairwise\[0\]: j names the response '9'"),
        ({"pairwise": [{"i": 0, "j": 1, "winner": 2}]}, "winner is '2', neither 0 nor 1 nor null"),
        ({"pairwise": [{"i": 0, "j": 1}]}, r"pairwise\[0\]: lacks the column 'winner'"),
        ({"pairwise": [3]}, r"pairwise\[0\] must have i, j and winner"),
    ],
)
def test_a_broken_ranking_is_refused(how: Row, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(row(**how))
