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


def test_what_cannot_be_compared_is_refused_and_halves_are_shares() -> None:
    for names, values in ((["a", "a"], [0.0, 1.0]), (["a", "b"], [0.0, float("nan")])):
        with pytest.raises(DataError, match="two groups of finite numbers are needed"):
            by_group(names, values)
    (ties, _) = by_group(["a"] * 4 + ["b"] * 4, [0.5] * 4 + [1.0] * 4).groups
    assert ties.interval == pytest.approx((0.150, 0.850), abs=1e-3)  # Wilson's of 2 of 4


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6 + 0.1])
def test_equal_numbers_put_no_group_behind(value: float) -> None:
    """Their means differ by rounding, which was many standard errors of numbers that do not vary."""
    for rows in (40, 74, 95):
        assert by_group([str(i % 3) for i in range(rows)], [value] * rows).p == 1.0


def test_a_p_counts_the_rows_as_they_are_among_the_resamples() -> None:
    """All right of 40 and all wrong of 40 are met by none; of 4 and 4 in 2 of C(8, 4) = 70 ways."""
    assert by_group(["a"] * 40 + ["b"] * 40, [1.0] * 40 + [0.0] * 40).p == pytest.approx(1 / 5000)
    assert by_group(["a"] * 4 + ["b"] * 4, [1.0] * 4 + [0.0] * 4).p == pytest.approx(2 / 70, abs=0.008)


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


def test_accuracy_and_reward_are_of_each_prompt_in_each_group(tmp_path: Path) -> None:
    """False is a group. It is wrong on four prompts of four at rewards of 3, and the other right at rewards of 1."""
    rows = [
        {"prompt": f"p{i}", "rewards": rewards, "adult": adult}
        for adult, rewards in ((False, [3.0, 4.0]), (True, [1.0, 0.0]))
        for i in range(4)
    ]
    said = list(group_lines(pairs(tmp_path, rows), "adult"))
    assert said[1].startswith("  False: 0.000 [0.000, 0.490], -1.000 to the others, 4 prompts (50.0%)")
    assert said[4:6] == [
        "  True: 1.000 [0.510, 1.000], -2.000 to the others, 4 prompts (50.0%)",
        "  False: 3.000 [3.000, 3.000], +2.000 to the others, 4 prompts (50.0%)",
    ]
    assert said[6].startswith("False is judged worse than the others, by 100.0% (p 0.0")  # 2 of 70 ways
    with pytest.raises(DataError, match="two finite numbers"):
        list(group_lines(pairs(tmp_path, [{"rewards": [1.0, 0.0, 0.5]}]), "adult"))


def test_turns_of_one_conversation_are_one_prompt(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    rows = [{"prompt": asked[:turns], "rewards": [1.0, 0.0], "topic": "x"} for turns in (1, 3)]
    said = list(group_lines(pairs(tmp_path, [*rows, {"prompt": "d", "rewards": [0.0, 1.0], "topic": "y"}]), "topic"))
    assert "1 prompts (50.0%)" in said[1]


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


def pair(prompt: str, gap: float, rejected: str = "") -> dict[str, Any]:
    return {"prompt": prompt, "chosen": "", "rejected": rejected, "rewards": [0.0, gap]}


def test_a_cluster_is_marked_by_words_that_it_has_more_of() -> None:
    """Not by the first words of the alphabet where it has fewer than five, nor where all rows are one cluster."""
    few, many = [pair("ant bee", gap) for gap in (1.0, 3.0, 2.0)], [pair("zoo yak wok vat urn", 1.0)] * 2
    first, second = clustered([*few, *many], 2)
    assert (set(first.words), set(second.words)) == ({"ant", "bee"}, {"zoo", "yak", "wok", "vat", "urn"})
    assert [gap(row) for row in first.rows] == [3, 2, 1]
    both = clustered([pair("ant cat zoo", 1.0)] * 9 + [pair("bee zoo zoo", 1.0)] * 2, 2)  # more in each row
    assert [set(one.words) for one in both] == [{"ant", "cat"}, {"bee", "zoo"}]
    (alone,) = clustered([pair("zoo", 1.0, "rare"), *[pair("a b c d e", 1.0)] * 8], 1)
    assert set(alone.words) == {"a", "b", "c", "d", "e"}


def test_more_clusters_than_texts_are_as_many_as_there_are(tmp_path: Path) -> None:
    assert [len(one.rows) for one in clustered([pair("ant", 1.0)] * 2 + [pair("bee", 1.0)], 5)] == [2, 1]
    signs = pairs(tmp_path, [pair("?", 1.0), pair("!", 2.0)])
    assert next(failure_lines(signs, 9, 5, None)) == "2 rows; the worst has gap 2:"
    assert next(failure_lines(signs, 1, 5, None)) == "1 rows; the worst has gap 2:"
    longer = pairs(tmp_path, [pair("ant", 1.0, "ant ant ant"), pair("ant", 9.0, "ant")])
    assert next(failure_lines(longer, 9, 1, None, "length")).endswith("the worst has length 3:")


def test_pairs_are_worst_by_disagreement_and_by_length(tmp_path: Path) -> None:
    """Of a pair whose longer response wins by 2 words, members say 3 - 1 = 2 and 1 - 2 = -1: deviation 3 / sqrt(2)."""
    row = {"prompt": "p", "chosen": "a b c", "rejected": "d", "rewards": [2.0, 1.0], "members": [[3, 1], [1, 2]]}
    other = {**row, "chosen": "a", "rejected": "b c d e", "members": [[1, 1], [0, 0]]}
    assert (disagreement(row), disagreement(other)) == (pytest.approx(3 / 2**0.5), 0.0)
    assert (length(row), length(other)) == (2.0, -3.0)
    file, out = pairs(tmp_path, [other, row]), tmp_path / "again.jsonl"
    for by in ("disagreement", "length"):
        assert f"the worst has {by} " in list(failure_lines(file, 9, 1, out, by))[0]
        assert [json.loads(line)["responses"][0] for line in out.read_text().splitlines()] == ["a b c"]
    again = json.loads(out.read_text())
    assert (again["responses"][0], again["length"]) == ("a b c", 2.0)
    assert "every chosen response" in next(failure_lines(file, 9, 1, None))


@pytest.mark.parametrize("members", [{}, {"members": [[1], [0]]}, {"members": [[1, None], [0, 1]]}])
def test_members_that_cannot_disagree_are_refused(members: dict[str, Any]) -> None:
    """One member has no deviation, and one without a reward says nothing: neither is an agreement."""
    with pytest.raises(DataError, match="`members` of an ensemble"):
        worst([{"rewards": [0, 1], **members}], 1, "disagreement")


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
