"""Near duplicates by hand, and equal to comparing every text with every other."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_plugins.data.changes.similar import pieces, repeats, similarity


def test_similarity_is_the_share_of_the_pieces_that_both_have() -> None:
    one, other = pieces("The cat sat.", 3), pieces("the cat SAW!", 3)  # 'the', ..., 'sat' and 'saw': 9 pieces each
    assert len(one) == len(other) == 9
    assert similarity(one, other) == pytest.approx(8 / 10)


@pytest.mark.parametrize(("text", "found"), [("ab", {"ab"}), ("", {""}), ("A-b?", {"a b"})])
def test_a_text_shorter_than_a_piece_is_one_whole(text: str, found: set[str]) -> None:
    assert pieces(text, 5) == found


def test_the_first_of_several_alike_is_kept() -> None:
    texts = ["the cat sat", "a dog ran", "the cat saw", "The cat sat!"]
    assert repeats(texts, 0.8, 3) == [None, None, 0, 0]
    assert repeats(texts, 0.81, 3) == [None, None, None, 0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab ", max_size=8), max_size=12), st.floats(0.05, 1.0), st.integers(1, 3))
def test_no_pair_is_missed_and_none_is_too_many(texts: list[str], threshold: float, width: int) -> None:
    found = repeats(texts, threshold, width)
    for place, text in enumerate(texts):
        kept = [other for other in range(place) if found[other] is None]
        alike = (o for o in kept if similarity(pieces(text, width), pieces(texts[o], width)) >= threshold)
        assert found[place] == next(alike, None)
