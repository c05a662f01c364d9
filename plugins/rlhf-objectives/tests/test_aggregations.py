"""Votes and orders by hand: Condorcet's cycle, a winner that Borda misses, thresholds, and what never changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, tensor

from rlhf_plugins import MemberScores, RunError, component


def scores(name: str, rewards: list[list[float]], **options: Any) -> list[float]:
    """Of the responses to one prompt, a row a member."""
    members = tensor(rewards)
    group = torch.zeros(members.shape[1], dtype=torch.long)
    found: Tensor = component("aggregation", name, **options)(MemberScores(members, torch.ones(len(members)), group))
    return [round(x, 4) for x in found.tolist()]


CYCLE = [[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [2.0, 1.0, 3.0]]  # a > b > c, b > c > a, c > a > b
BORDA_MISSES = [[3.0, 2.0, 1.0]] * 3 + [[1.0, 3.0, 2.0]] * 2  # 3 of a > b > c, 2 of b > c > a


def test_condorcets_cycle_by_hand() -> None:
    """Each beats one and loses to one: 1/2; each is preferred to its worst rival by one of three."""
    assert scores("majority", CYCLE) == [0.5] * 3
    assert scores("maximin", CYCLE) == [0.3333] * 3


def test_a_majority_winner_that_borda_misses_by_hand() -> None:
    """a beats b and c by 3 of 5. Borda: a 3/5; b (2/5 + 1) / 2 = 7/10. Maximin: b's worst is 2/5, c's 0."""
    assert scores("vote", BORDA_MISSES) == [0.6, 0.7, 0.2]
    assert scores("majority", BORDA_MISSES) == [1.0, 0.5, 0.0]
    assert scores("maximin", BORDA_MISSES) == [0.6, 0.4, 0.0]


def test_ties_count_one_half_by_hand() -> None:
    """One member ties, one prefers the first: 3/4 of the votes, a majority."""
    tied = [[1.0, 1.0], [2.0, 1.0]]
    assert scores("majority", tied) == [1.0, 0.0]
    assert scores("maximin", tied) == [0.75, 0.25]
    assert scores("majority", [[1.0, 1.0]]) == [0.5, 0.5]


def test_the_first_objective_decides_by_hand() -> None:
    """c is first in the first one; a and b tie there, and b has more of the second."""
    assert scores("lexicographic", [[1.0, 1.0, 2.0], [5.0, 6.0, 0.0]]) == [0.0, 0.5, 1.0]


def test_more_than_enough_does_not_matter_by_hand() -> None:
    """With 1 enough all three tie in the first, and the second decides: b, a, c."""
    rewards = [[1.0, 1.0, 2.0], [5.0, 6.0, 0.0]]
    assert scores("lexicographic", rewards, thresholds=[1.0]) == [0.5, 1.0, 0.0]
    assert scores("lexicographic", rewards, thresholds=[1.0, 5.0]) == [0.75, 0.75, 0.0]
    with pytest.raises(RunError, match="lexicographic: 3 thresholds for 2 objectives"):
        scores("lexicographic", rewards, thresholds=[1.0, 1.0, 1.0])


@pytest.mark.parametrize("name", ["majority", "maximin", "lexicographic"])
def test_prompts_are_apart_and_one_alone_has_one_half(name: str) -> None:
    members = MemberScores(tensor([[1.0, 9.0, 2.0]]), torch.ones(1), tensor([0, 1, 0]))
    assert component("aggregation", name)(members).tolist() == [0.0, 0.5, 1.0]


@given(st.integers(0, 500), st.integers(1, 5), st.integers(2, 5), st.sampled_from(["majority", "maximin"]))
def test_a_condorcet_winner_wins(seed: int, voters: int, responses: int, name: str) -> None:
    draw = torch.Generator().manual_seed(seed)
    rewards = torch.stack([torch.randperm(responses, generator=draw).float() for _ in range(2 * voters + 1)])
    beats = (rewards.unsqueeze(2) > rewards.unsqueeze(1)).float().mean(0) > 0.5
    found = scores(name, rewards.tolist())
    for winner in (beats.sum(1) == responses - 1).nonzero().flatten().tolist():
        assert [place for place, score in enumerate(found) if score == max(found)] == [winner]
