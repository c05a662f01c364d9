"""What each rewrite makes of a text, and how often chance strikes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_plugins.data.changes.rewrites import HARMLESS, doubled, dropped, swapped

RATED = [dropped, swapped, doubled]
WORDS = " ".join(map(str, range(4000)))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("space_at_end", "an ant. "),
        ("doubled_spaces", "an  ant."),
        ("full_stop", "an ant"),
        ("first_letter", "An ant."),
    ],
)
def test_harmless_rewrites_by_hand(name: str, expected: str) -> None:
    assert HARMLESS[name]("an ant.", rng()) == expected


@given(st.from_regex(r"[A-Za-z][a-z ]*\.?", fullmatch=True))
def test_what_turns_something_turns_it_back(text: str) -> None:
    for name in ("full_stop", "first_letter"):
        assert HARMLESS[name](HARMLESS[name](text, rng()), rng()) == text != HARMLESS[name](text, rng())


def test_certain_changes_by_hand() -> None:
    assert dropped("a  b\nc", rng(), 1.0) == ""
    assert swapped("a b c", rng(), 1.0) == "b c a"
    assert doubled("a b", rng(), 1.0) == "a a b b"


@pytest.mark.parametrize("change", RATED)
def test_the_rate_is_the_share_of_words_that_change(change: Callable[..., str]) -> None:
    before, after = WORDS.split(), change(WORDS, rng(), 0.1).split()
    changes = {
        dropped: len(before) - len(after),
        doubled: len(after) - len(before),
        swapped: sum(a > b for a, b in zip(map(int, after), map(int, after[1:]), strict=False)),
    }
    assert changes[change] / len(before) == pytest.approx(0.1, abs=0.02)
    assert (Counter(after) == Counter(before)) == (change is swapped)


@pytest.mark.parametrize("change", [*HARMLESS.values(), *(lambda t, r, f=f: f(t, r, 0.5) for f in RATED)])
@given(text=st.text())
def test_any_text_can_be_rewritten_and_the_seed_decides_how(change: Callable[..., str], text: str) -> None:
    assert change(text, rng()) == change(text, rng())
