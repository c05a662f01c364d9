"""BLEU and ROUGE-L of answers, by hand."""

from __future__ import annotations

import pytest
from rlhf_bench.overlap import references

from rlhf_plugins import Comparison, Group, component

ANSWER, GIVEN = "the cat sat on the mat", "the cat sat on a mat"


def test_bleu_is_the_geometric_mean_of_the_shares_of_n_grams() -> None:
    bleu = component("task", "bleu")
    assert bleu.score(ANSWER, [GIVEN]) == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert bleu.score(ANSWER, ["a dog", ANSWER]) == 1


def test_rouge_l_is_twice_the_common_words_in_order_by_all_words() -> None:
    rouge = component("task", "rouge_l")
    assert rouge.score(ANSWER, [GIVEN]) == pytest.approx(2 * 5 / 12)
    assert rouge.score("The cat!", ["dogs", "the cat"]) == 1
    assert rouge.score("", ["the cat"]) == 0


def test_references_are_single_answers_and_the_best_of_several() -> None:
    pair = Group("q", ("bad", "good"), compared=(Comparison(1, 0),))
    found = references(
        [pair, Group("q", ("fine",)), Group("q", ("good",)), Group("r"), Group("s", ("no",), label=False)]
    )
    assert {prompt: texts for prompt, (_, texts) in found.items()} == {"q": ["good", "fine"]}
