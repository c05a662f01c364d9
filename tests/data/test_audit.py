"""What an audit counts, on data small enough to count by hand; distributions; and what is written."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.contract.rows import Comparison, Data, Group
from rlhf_plugins.data.measures.audit import Share, audit
from rlhf_plugins.data.measures.distributions import distributions, topics
from rlhf_plugins.data.rows import read_rows
from rlhf_plugins.data.write import write_rows
from rlhf_plugins.errors import DataError

CIRCLE = Group("p", ("aa", "b", "c"), compared=(Comparison(0, 1), Comparison(1, 2), Comparison(2, 0)))
RANKED = Group("p", ("b", "d", "eee"), (0, 1, 1))
BACK = Group("p", ("c", "b"), (0, 1))
TEST = Group("q", ("x", "b"), (1, 0), margin=2.0, weight=0.5, ratings={"good": (1.0, 3.0)}, topic="t")


def data(*train: Group, test: tuple[Group, ...] = (TEST,)) -> Data:
    return Data(train, test, {}, {"tie": 2})


def test_counts_by_hand() -> None:
    found = audit(data(CIRCLE, RANKED))
    assert (found.rows, found.prompts, found.groups, found.dropped) == (None, 2, {"train": 2, "test": 1}, {"tie": 2})
    assert (found.responses, found.comparisons, found.ties, found.rated) == (7, 7, 1, 2)
    assert found.longer_wins == Share(3, 1)  # aa > b; c > aa and b > eee do not
    assert found.first_wins == Share(1, 0)
    assert found.too_long is None
    tied = audit(data(Group("r", ("one", "two!"), (0, 0)), test=()), lambda *texts: 1)
    assert (tied.ties, tied.longer_wins, tied.first_wins, tied.too_long) == (1, Share(0, 0), Share(0, 0), None)
    assert (str(tied.first_wins), str(Share(4, 1))) == ("- (n=0)", "0.250 (n=4)")


def test_circles_and_contradictions() -> None:
    found = audit(data(CIRCLE, RANKED))
    assert (found.contradictions, found.circles, found.circling) == (0, 1, Share(6, 3))
    found = audit(data(CIRCLE, RANKED, BACK))  # c > b undoes b > c, and with it the circle
    assert (found.contradictions, found.circles, found.circling) == (1, 0, Share(5, 0))


def test_what_stands_in_train_and_test() -> None:
    found = audit(data(RANKED, test=(TEST, CIRCLE)))
    assert (found.shared_prompts, found.shared_responses) == ({"p": 2}, {"b": 3})
    assert found.known == Share(2, 2)
    assert audit(data(RANKED, test=(TEST, replace(TEST, responses=("x", "y"))))).known == Share(2, 1)
    found = audit(data(RANKED, RANKED, test=(replace(TEST, prompt=" P\n"),)))
    assert found.shared_prompts == {" P\n": 3}
    found = audit(data(RANKED, test=()))
    assert (found.shared_prompts, found.shared_responses) == ({}, {})


def test_over_long_responses() -> None:
    def tokens(prompt: Any, response: Any) -> int:
        return len(prompt) + len(response)

    assert audit(data(CIRCLE, RANKED), tokens, 3).too_long == Share(7, 1)  # p with eee
    with pytest.raises(DataError, match="every response is longer than 1 tokens with its prompt"):
        audit(data(CIRCLE), tokens, 1)


def test_distributions_by_hand() -> None:
    found = {
        d.name: d for d in distributions([CIRCLE, replace(TEST, ratings={"good": (1.0, 3.0), "kind": (None, 5.0)})])
    }
    sizes = found["responses of a group"]
    assert (sizes.count, sizes.mean, sizes.deviation, sizes.quartiles) == (2, 2.5, 0.5, (2, 2.25, 2.5, 2.75, 3))
    assert found["margin of a comparison"].quartiles == (2, 2, 2, 2, 2)
    assert (found["weight of a comparison"].count, found["weight of a comparison"].mean) == (4, 0.875)
    assert [(found[f"rating: {name}"].count, found[f"rating: {name}"].mean) for name in ("good", "kind")] == [
        (2, 2),
        (1, 5),
    ]
    names = ("comparisons of a group", "characters of a prompt", "characters of a response")
    assert [(found[name].count, found[name].mean) for name in names] == [(2, 2.0), (2, 1.0), (5, 1.2)]
    (*_, difficult, _) = distributions([CIRCLE, replace(TEST, difficulty=3.0)])
    assert (difficult.name, difficult.count, difficult.mean) == ("difficulty of a group", 1, 3.0)
    assert "difficulty of a group" not in found
    assert topics([TEST, CIRCLE, TEST]) == [("t", 2)]


ROWS: list[dict[str, Any]] = [{"chosen": "é,\n", "weight": 1.5}, {"chosen": '"', "weight": None}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet"])
def test_what_is_written_is_read(name: str, tmp_path: Path) -> None:
    write_rows(tmp_path / name, ROWS)
    found = [fields for _, fields in read_rows(str(tmp_path / name))]
    expected = ROWS if name != "a.csv" else [{"chosen": "é,\n", "weight": "1.5"}, {"chosen": '"', "weight": ""}]
    assert found == expected


def test_a_file_is_written_anew_only_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    write_rows(path, ROWS)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: exists already; .*--overwrite"):
        write_rows(path, ROWS)
    write_rows(path, ROWS[:1], overwrite=True)
    assert gzip.decompress(path.read_bytes()).count(b"\n") == 1


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("a.txt", ROWS, r"unknown file ending '\.txt' \(known: \.csv"),
        ("a.csv", [{"responses": ["x"]}], "CSV holds no lists, and 'responses' is one"),
        ("a.parquet", [{"a": "x"}, {"a": ["y"]}], "cannot be written as Parquet: "),
        ("none/a.jsonl", ROWS, "cannot be written: No such file"),
    ],
)
def test_what_cannot_be_written_is_refused(name: str, rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        write_rows(tmp_path / name, rows)
