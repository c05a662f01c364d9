"""The sign test and Holm's correction against numbers worked by hand."""

from __future__ import annotations

import pytest

from rlhf_plugins import holm, sign_test


@pytest.mark.parametrize(
    ("won", "lost", "p"),
    [
        (5, 0, 2 / 32),  # both tails of 5 coins that all agree
        (4, 1, 12 / 32),  # 2 (1 + 5) / 32
        (1, 4, 12 / 32),
        (3, 3, 1.0),
        (0, 0, 1.0),
        (100, 0, 2.0**-99),
    ],
)
def test_sign_test_by_hand(won: int, lost: int, p: float) -> None:
    assert sign_test(won, lost) == pytest.approx(p)


def test_holm_multiplies_the_smallest_by_their_number() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None})
    assert found == {"a": pytest.approx(0.03), "b": pytest.approx(0.06), "c": pytest.approx(0.06), "d": None}
    assert list(found) == ["a", "b", "c", "d"]
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
