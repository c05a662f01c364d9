"""Users with tastes: their values by hand, one taste a number, and rows that they rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from rlhf_personal.tastes import Tastes, taste, worths

from rlhf_plugins import Base, Comparison, Data, DataError, DataFormat, Group, component

ROWS = {"format": "sandbox", "writer": "sloppy", "prompts": 60, "test_prompts": 4, "pairs": 2}


def loaded(**options: object) -> Data:
    made: Tastes = component("data_format", "tastes", rows=ROWS, **options)
    return made.load(Base("sandbox"), 0)


def test_the_dimensions_of_a_response_by_hand() -> None:
    """Two true dimensions without their sum, and 3 words in tens."""
    found = worths(lambda prompt, response: {"a": 1.0, "b": 0.5, "total": 1.5}, "p", ["one two three"])
    np.testing.assert_allclose(found, [[1.0, 0.5, 0.3]])


def test_a_taste_is_the_users_alone() -> None:
    np.testing.assert_array_equal(taste(7, 5, 0.0), [1, 1, 1, 1, 0])
    np.testing.assert_array_equal(taste(7, 5, 2.0), taste(7, 5, 2.0))
    apart = [(taste(u, 5, 2.0) - taste(u, 5, 0.0)) / 2 for u in range(2000)]
    assert abs(np.mean(apart)) < 0.05
    assert np.std(apart) == pytest.approx(1.0, abs=0.05)


def test_users_rank_by_their_own_values() -> None:
    data = loaded(users=3, first=5, temperature=1e-3)
    assert {group.columns["user"] for group in data.train} == {5, 6, 7}
    for group in data.train:
        assert group.gold is not None
        assert group.ranks is not None
        assert group.gold[group.ranks.index(0)] > group.gold[group.ranks.index(1)] - 0.02


@dataclass(frozen=True)
class Known(DataFormat):
    """One pair that somebody judged, whose truth is the number of letters."""

    def load(self, base: Base, seed: int) -> Data:
        judged = Comparison(0, 1, margin=2.0)
        row = Group("p", ("a", "bb"), compared=(judged,), topic="t", difficulty=0.5, weight=3.0, columns={"x": 1})
        return Data((row,), gold=lambda prompt, response: {"letters": float(len(response))})

    def known_columns(self) -> frozenset[str]:
        return frozenset({"ranks", "margin", "topic"})


def test_what_is_known_of_a_row_stays_and_what_another_judged_does_not() -> None:
    """A user with the mean taste at next to no noise: 2 letters before 1."""
    made = Tastes(rows=Known(), users=1, first=4, spread=0.0, temperature=1e-3)
    (row,) = made.load(Base("sandbox"), 0).train
    columns = {"x": 1, "user": 4}
    assert row == Group("p", ("a", "bb"), (1, 0), gold=(1.0, 2.0), topic="t", difficulty=0.5, columns=columns)
    assert made.known_columns() == {"ranks", "topic"}


def test_tastes_that_differ_make_users_disagree() -> None:
    """A user of another number judges the same responses."""
    orders = {first: [g.ranks for g in loaded(users=1, first=first, temperature=1e-3).train] for first in (0, 1)}
    alike = np.mean([a == b for a, b in zip(*orders.values(), strict=True)])
    assert 0.2 < alike < 0.95


def test_rows_without_a_known_truth_are_refused(tmp_path: object) -> None:
    file = f"{tmp_path}/rows.jsonl"
    with open(file, "w", encoding="utf-8") as rows:
        rows.write('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(DataError, match="tastes: needs rows whose true reward is known"):
        component("data_format", "tastes", rows={"format": "preference", "source": file}).load(Base("sandbox"), 0)
