"""Comparisons of few prompts, and of looks that disagree: intervals that hold, and numbers that JSON can hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rlhf_watch.ab import paired, sequential
from rlhf_watch.ab.comparison import compare
from rlhf_watch.ab.scores import Scored, by_conversation
from rlhf_watch.ab.wording import lines, record
from rlhf_watch.groups.fairness import by_group
from rlhf_watch.groups.reading import read, table
from scipy import stats

from rlhf_plugins import DataError


def write(folder: Path, name: str, scores: list[float]) -> str:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"p{i}", "score": s}) + "\n" for i, s in enumerate(scores)))
    return str(file)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_interval_of_few_prompts_holds_the_truth_as_often_as_it_says(count: int) -> None:
    drawn = np.random.default_rng(0).normal(size=(200, count))
    held = [low <= 0 <= high for low, high in map(paired.mean_interval, drawn)]
    assert sum(held) / 200 >= 0.915  # 0.95 less two standard errors; the bootstrap alone holds it in 0.57, 0.69, 0.88


def test_students_interval_by_hand() -> None:
    few = np.array([1.0, 2.0, 6.0])
    wide = 4.302653 * np.std(few, ddof=1) / np.sqrt(3)
    assert paired.mean_interval(few) == pytest.approx((3 - wide, 3 + wide), abs=1e-5)
    many = stats.norm.ppf((np.arange(400) + 0.5) / 400)
    assert paired.mean_interval(many) == pytest.approx((-0.098, 0.098), abs=0.006)


def test_one_prompt_has_no_interval(tmp_path: Path) -> None:
    (found,) = compare([write(tmp_path, "a", [0.0]), write(tmp_path, "b", [1.0])])
    assert "mean difference +1 of one prompt" in "\n".join(lines([found]))
    groups = by_group(["x", "y", "y"], [1 / 3, 0.25, 0.75])
    assert "  x: 0.333 (no interval)" in "\n".join(table("accuracy", groups, "prompts"))


def test_what_is_not_finite_is_null_in_json(tmp_path: Path) -> None:
    """All differ by 0.1, but for rounding, so that there is no deviation to count in."""
    (found,) = compare([write(tmp_path, "a", [0.3, 0.7, 0.9]), write(tmp_path, "b", [0.4, 0.8, 1.0])])
    assert found.effect == float("inf")
    assert json.loads(json.dumps(record(found), allow_nan=False))["effect"] is None


def test_a_decision_is_for_whom_it_was_when_it_was_made(tmp_path: Path) -> None:
    """The new model wins the first 12 prompts, which decides, and loses the next 12 and one more."""
    for number, won in enumerate(["new"] * 12 + ["old"] * 13, 1):
        (tmp_path / str(number)).mkdir()
        lost = ({"new", "old"} - {won}).pop()
        row = {"prompt": f"p{number}", "chosen": "a", "rejected": "b"}
        row |= {"origins": {"chosen": {"model": won}, "rejected": {"model": lost}}}
        (tmp_path / str(number) / "train.jsonl").write_text(json.dumps(row) + "\n")
    (old,) = compare([str(tmp_path)])
    assert (old.counts, old.decided_after, old.decided_for, old.better) == ((13, 0, 12), 11, False, False)
    assert 1 / sequential.wealth(0, 11) < 0.05 < 1 / sequential.wealth(0, 10)


def test_a_prompt_may_say_null_and_a_reward_may_be_too_large(tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "score": 1.0} for prompt in ("null", "other")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert compare([str(tmp_path / "a.jsonl")] * 2)[0].counts.tied == 2
    (tmp_path / "b.jsonl").write_text(json.dumps({"prompt": "p", "rewards": [10**400, 0]}))
    with pytest.raises(DataError, match="b.jsonl:1: a row needs `rewards`"):
        read(tmp_path / "b.jsonl")


def turns(talk: int, turn: int) -> list[dict[str, str]]:
    """A prompt of so many turns before it."""
    later = [{"role": role, "content": f"{talk} {n}"} for n in range(turn) for role in ("assistant", "user")]
    return [{"role": "user", "content": f"hello {talk}"}, *later]


def talks(folder: Path, name: str, scores: np.ndarray) -> str:
    """Scores (conversations, turns)."""
    rows = [{"prompt": turns(*at), "score": float(score)} for at, score in np.ndenumerate(scores)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / f"{name}.jsonl")


def test_a_conversation_counts_once_by_its_mean(tmp_path: Path) -> None:
    ours = np.array([[1.0, 1.0, -1.0], [-1.0, -1.0, -1.0], [0.0, 0.0, 0.0]])
    (found,) = compare([talks(tmp_path, "a", np.zeros((3, 3))), talks(tmp_path, "b", ours)])
    assert (found.counts, found.merged, found.left_out) == ((1, 1, 1), 6, 0)
    assert found.difference == pytest.approx((1 / 3 - 1) / 3)
    assert "conversations count once: 6 further prompts" in "\n".join(lines([found]))
    fewer = talks(tmp_path, "c", ours[:, :1])
    (one,) = compare([str(tmp_path / "a.jsonl"), fewer])
    assert (one.counts, one.difference, one.left_out) == ((1, 1, 1), 0.0, 0)


def test_conversations_alike_are_rarely_called_different(tmp_path: Path) -> None:
    """Eight turns of each of 20 conversations are won or lost together; each as its own would be wrong in half."""
    rng, base, wrong = np.random.default_rng(0), talks(tmp_path, "a", np.zeros((20, 8))), 0
    for _ in range(60):
        ours = np.repeat(rng.choice([-1.0, 1.0], (20, 1)), 8, 1)
        wrong += compare([base, talks(tmp_path, "b", ours)])[0].better is not None
    assert wrong / 60 <= 0.1


def test_a_later_turn_takes_no_evidence_back() -> None:
    first, later = (json.dumps(turns(0, turn)) for turn in (0, 1))
    ours, theirs = ({first: 1.0, later: worth} for worth in (0.0, 1.0))
    open_still = by_conversation([Scored("a", "people", ours, looks=2), Scored("b", "people", theirs, looks=2)])
    assert [one.scores for one in open_still] == [{first: 1.0}, {first: 1.0}]
    ended = by_conversation([Scored("a", "people", ours), Scored("b", "people", theirs)])
    assert [one.scores for one in ended] == [{first: 0.5}, {first: 1.0}]
