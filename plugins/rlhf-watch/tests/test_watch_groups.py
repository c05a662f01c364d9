"""Groups and failures: intervals, a worst group that chance does not make, clusters, and rows for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rlhf_watch.ab import paired
from rlhf_watch.ab.comparison import compare
from rlhf_watch.groups.failures import clustered, disagreement, gap, length, worst
from rlhf_watch.groups.fairness import by_group, wins
from rlhf_watch.groups.reading import failure_lines, group_lines
from scipy import stats

from rlhf_plugins import DataError


def test_a_group_has_its_mean_wilsons_interval_and_its_gap() -> None:
    found = by_group(["a"] * 10 + ["b"] * 10, [1.0] * 8 + [0.0] * 2 + [1.0] * 5 + [0.0] * 5)
    assert [(one.name, one.rows, one.mean) for one in found.groups] == [("b", 10, 0.5), ("a", 10, 0.8)]
    assert found.groups[0].gap == pytest.approx(-0.3)
    wilson = stats.binomtest(8, 10).proportion_ci(method="wilson")
    assert found.groups[1].interval == pytest.approx((wilson.low, wilson.high))
    assert wins([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]) == [1.0, 0.5, 0.0]


@pytest.mark.slow
def test_the_worst_of_many_alike_groups_is_not_called_worse() -> None:
    rng, false = np.random.default_rng(0), 0
    for _ in range(40):
        false += by_group([str(i % 8) for i in range(160)], (rng.random(160) < 0.7).astype(float)).p <= 0.05
    assert false <= 6
    worse = [float(rng.random() < (0.3 if i % 8 == 3 else 0.8)) for i in range(320)]
    found = by_group([str(i % 8) for i in range(320)], worse)
    assert (found.behind.name, found.p < 0.01) == ("3", True)


def test_resamples_in_lots_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=40)
    names = ["a"] * 15 + ["b"] * 25
    whole = paired.permutation_test(values, 0 * values), by_group(names, values.tolist())
    monkeypatch.setattr(paired, "NUMBERS_AT_ONCE", 40 * 700)
    assert (paired.permutation_test(values, 0 * values), by_group(names, values.tolist())) == whole


def pairs(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    file = tmp_path / "scored.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_files_are_reported_by_group(tmp_path: Path) -> None:
    rows = [{"rewards": [1.0, 0.0], "language": "en"}] * 40 + [{"rewards": [0.0, 1.0], "language": "de"}] * 40
    file = pairs(tmp_path, [*rows, {"rewards": [1.0, 0.0]}])
    said = "\n".join(group_lines(file, "language"))
    assert "de is judged worse than the others, by 100.0%" in said
    assert "  de: 0.000 [0.000, 0.088], -1.000 to the others, 40 prompts (50.0%)" in said  # Wilson's: 3.84 / 43.84
    assert "left out: 1 rows" in said
    with pytest.raises(DataError, match=r"no row has a column 'lang' \(known: language, rewards\)"):
        list(group_lines(file, "lang"))
    with pytest.raises(DataError, match="scored.jsonl:1: `rewards` should be two finite numbers"):
        list(group_lines(pairs(tmp_path, [{"rewards": [1.0, float("nan")]}]), "language"))


def test_rows_of_one_prompt_make_no_group_worse(tmp_path: Path) -> None:
    """Eight prompts with 20 rows each that are all right or all wrong: four right of four, and two of four."""
    rows = [
        {"prompt": f"p{prompt}", "rewards": [float(prompt != 6 and prompt != 7), 0.5], "topic": "ab"[prompt // 4]}
        for prompt in range(8)
        for _ in range(20)
    ]
    said = "\n".join(group_lines(pairs(tmp_path, rows), "topic"))
    assert "  b: 0.500 [0.150, 0.850], -0.500 to the others, 4 prompts (50.0%)" in said  # Wilson's of 2 of 4
    assert "no group is shown to be judged worse; the furthest behind is b" in said


def test_failures_are_clustered_and_go_to_people(tmp_path: Path) -> None:
    long = [
        {"prompt": f"sum {i}", "chosen": "short", "rejected": "very long answer", "rewards": [0, 2]} for i in range(6)
    ]
    rude = [{"prompt": f"greet {i}", "chosen": "hello", "rejected": "you fool", "rewards": [0, 1]} for i in range(4)]
    good = [{"prompt": "p", "chosen": "c", "rejected": "r", "rewards": [1, 0]}] * 9
    assert [gap(row) for row in worst([*good, *rude, *long], 7)] == [2] * 6 + [1]
    first, second = clustered([*rude, *long], 2)
    assert (len(first.rows), len(second.rows)) == (6, 4)
    assert "fool" in second.words
    out = tmp_path / "again.jsonl"
    assert "10 rows, for `rlhf collect new" in list(failure_lines(pairs(tmp_path, rude + long), 20, 2, out))[-1]
    assert json.loads(out.read_text().splitlines()[0])["responses"] == ["short", "very long answer"]


def test_pairs_are_worst_by_disagreement_and_by_length(tmp_path: Path) -> None:
    """Of a pair whose longer response wins by 2 words, members say 3 - 1 = 2 and 1 - 1 = 0: deviation sqrt(2)."""
    row = {"prompt": "p", "chosen": "a b c", "rejected": "d", "rewards": [2.0, 1.0], "members": [[3, 1], [1, 1]]}
    other = {**row, "chosen": "a", "rejected": "b c d e", "members": [[1, 1], [0, 0]]}
    assert (disagreement(row), disagreement(other)) == (pytest.approx(2**0.5), 0.0)
    assert (length(row), length(other)) == (2.0, -3.0)
    file, out = pairs(tmp_path, [other, row]), tmp_path / "again.jsonl"
    for by in ("disagreement", "length"):
        assert f"the worst has {by} " in list(failure_lines(file, 9, 1, out, by))[0]
        assert [json.loads(line)["responses"][0] for line in out.read_text().splitlines()] == ["a b c"]
    assert "every chosen response" in next(failure_lines(file, 9, 1, None))
    with pytest.raises(DataError, match="`members` of an ensemble"):
        worst([{"rewards": [0, 1]}], 1, "disagreement")


def test_the_group_that_is_named_is_the_one_that_the_test_is_about() -> None:
    """Half of a group of 500 at 0.55, against 0.80, is shown; one row at 0 is the lowest mean and shows nothing."""
    names = ["large"] * 500 + ["other"] * 500 + ["tiny"]
    values = [1.0] * 275 + [0.0] * 225 + [1.0] * 400 + [0.0] * 100 + [0.0]
    found = by_group(names, values)
    assert (found.groups[0].name, found.behind.name, found.p < 0.01) == ("tiny", "large", True)


def test_rows_that_people_cannot_judge_are_named_in_one_line(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "rewards": [0.0, 1.0]}
    file = pairs(tmp_path, [row, {**{k: row[k] for k in ("chosen", "rejected")}, "rewards": [0.0, 0.5]}])
    with pytest.raises(DataError, match="rows have no 'prompt', which people judge by"):
        list(failure_lines(file, 2, 1, tmp_path / "out.jsonl"))
    file.write_text("[" * 9000)
    with pytest.raises(DataError, match="scored.jsonl:1: a row needs `rewards`"):
        list(group_lines(file, "language"))
    with pytest.raises(DataError, match="scored.jsonl:1: not JSON"):
        compare([str(file), str(file)])
