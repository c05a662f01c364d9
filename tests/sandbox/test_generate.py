"""Annotated groups: one record, from a seed, and views of it that agree with each other."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_plugins.errors import DataError
from rlhf_plugins.sandbox import Annotator, annotate, draft, gold, pairs, prompts

PROMPTS = prompts("train")[:200]
DRAFTS = draft(PROMPTS, 4, seed=0)


def test_the_same_seed_gives_the_same_records_and_another_does_not() -> None:
    assert draft(PROMPTS, 4, seed=0) == DRAFTS
    assert annotate(PROMPTS, DRAFTS, seed=1) == annotate(PROMPTS, DRAFTS, seed=1)
    assert annotate(PROMPTS, DRAFTS, seed=1) != annotate(PROMPTS, DRAFTS, seed=2)


def test_a_record_holds_the_worth_and_a_rank_for_each_response() -> None:
    for group in annotate(PROMPTS, DRAFTS):
        assert group.gold == tuple(gold(group.prompt, text) for text in group.responses)
        assert sorted(group.ranks) == [0, 1, 2, 3]
        assert list(np.argsort(group.ranks)) == list(np.argsort(-np.array(group.impressions)))


def test_pairs_agree_with_the_ranking_they_come_from() -> None:
    groups = annotate(PROMPTS, DRAFTS)
    for group in groups:
        pair, ranking = group.pair(1, 3), group.ranking()
        chosen, rejected = (1, 3) if group.ranks[1] < group.ranks[3] else (3, 1)
        assert pair.responses == (ranking.responses[chosen], ranking.responses[rejected])
        assert pair.gold == (group.gold[chosen].total, group.gold[rejected].total)
        assert (pair.ranks, pair.margin) == ((0, 1), group.strength(1, 3))


def test_a_share_of_the_pairs_is_flipped_and_the_others_are_as_they_were() -> None:
    plain = pairs(annotate(PROMPTS, DRAFTS), per_group=6)
    flipped = pairs(annotate(PROMPTS, DRAFTS, [Annotator(flips=0.3)]), per_group=6)
    turned = [a.responses == b.responses[::-1] for a, b in zip(plain, flipped, strict=True)]
    assert np.mean(turned) == pytest.approx(0.3, abs=0.05)
    same = [(a, b) for a, b, wrong in zip(plain, flipped, turned, strict=True) if not wrong]
    assert all(a == b for a, b in same)


def test_pairs_are_different_texts_and_at_most_as_many_as_asked() -> None:
    groups = annotate(["a", "b"], [["x", "x", "x", "y"], ["x", "x", "x", "x"]])
    assert [set(pair.responses) for pair in pairs(groups, per_group=2)] == [{"x", "y"}, {"x", "y"}]
    assert len(pairs(annotate(PROMPTS, DRAFTS), per_group=3)) <= 600


def test_ties_are_pairs_of_equal_rank_and_no_margin() -> None:
    tied = [pair for pair in pairs(annotate(PROMPTS, DRAFTS, [Annotator(tie_margin=1.0)])) if pair.margin == 0]
    assert 10 < len(tied) < 100
    assert all(pair.ranks == (0, 0) for pair in tied)
    assert not any(pair.margin == 0 for pair in pairs(annotate(PROMPTS, DRAFTS)))


def test_able_annotators_agree_with_gold_and_unable_ones_do_not() -> None:
    def accuracy(annotator: Annotator) -> float:
        made = pairs(annotate(PROMPTS, DRAFTS, [annotator]), per_group=6)
        return float(np.mean([pair.gold[0] > pair.gold[1] for pair in made if pair.gold and len(set(pair.gold)) == 2]))

    assert accuracy(Annotator(ability=0.0)) == pytest.approx(0.5, abs=0.05)
    assert 0.80 < accuracy(Annotator()) < 0.92 < accuracy(Annotator(ability=10.0))


def test_a_length_bias_makes_the_longer_response_win() -> None:
    made = pairs(annotate(PROMPTS, DRAFTS, [Annotator(length_bias=2.0)]), per_group=6)
    lengths = [[len(str(text).split()) for text in pair.responses] for pair in made]
    assert np.mean([chosen > rejected for chosen, rejected in lengths if chosen != rejected]) > 0.9


def test_each_annotator_of_a_panel_gets_a_share() -> None:
    panel = [Annotator(), Annotator(ability=0.1)]
    judged = [group.annotator for group in annotate(PROMPTS, DRAFTS, panel)]
    assert all(judged.count(annotator) > 60 for annotator in panel)


def test_misfitting_input_is_refused() -> None:
    with pytest.raises(DataError, match="2 prompts but 1 lists"):
        annotate(["a", "b"], [["x"]])
    with pytest.raises(DataError, match="at least one annotator"):
        annotate([], [], annotators=[])
