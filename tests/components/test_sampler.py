"""Samplers: probabilities worked by hand, on three examples; an epoch shows what it promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.stats import chisquare

from rlhf_plugins.components.sampler import (
    Curriculum,
    Dynamic,
    HardMining,
    LengthGrouped,
    Shuffled,
    register_sampler,
)
from rlhf_plugins.contract.interfaces import Sampler
from rlhf_plugins.contract.records import SamplerState

NAN, INF = float("nan"), float("inf")
ONCE = [Shuffled(), LengthGrouped(), Curriculum()]
ALL = [*ONCE, HardMining(), Dynamic()]
TAKEN = 3000


def draw_of(n: int = 3, seed: int = 0, **changes: Any) -> SamplerState:
    changes |= {name: np.array(value) for name, value in changes.items() if isinstance(value, list)}
    zeros = np.zeros(n)
    plain = SamplerState(
        1, np.ones(n, bool), 0.0, zeros.astype(int), zeros, zeros.astype(int), zeros * NAN, rng_of(seed)
    )
    return replace(plain, **changes)


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def fits(sampler: Sampler, draw: SamplerState, expected: Mapping[Any, float]) -> bool:
    """Whether TAKEN batches of the draw are distributed as expected; wrong one time in a thousand, but for its seed."""
    assert sum(expected.values()) == pytest.approx(1)
    seen = Counter(tuple(sorted(sampler(draw).tolist())) for _ in range(TAKEN))
    assert seen.keys() <= expected.keys()
    found = [seen[batch] for batch in expected]
    return bool(chisquare(found, [TAKEN * p for p in expected.values()]).pvalue > 0.001)


def random_draw(seed: int) -> SamplerState:
    """1 to 12 examples, some drawn already, with losses and difficulties of every size."""
    rng = rng_of(seed)
    n = int(rng.integers(1, 13))
    remaining = rng.random(n) < 0.6
    remaining[rng.integers(n)] = True
    loss = rng.choice([NAN, INF, 0.0, 0.7, 1e308, -1e308], n)
    difficulty = rng.choice([0.0, -3.0, 3.0, 1e300], n)
    length, topic = rng.integers(0, 9, n), rng.integers(0, 4, n)
    size = int(rng.integers(1, remaining.sum() + 1))
    return SamplerState(size, remaining, rng.random(), length, difficulty, topic, loss, rng)


@pytest.mark.parametrize("sampler", ALL)
@given(seed=st.integers(0, 10_000))
def test_a_batch_is_as_large_as_asked_and_holds_nothing_twice(sampler: Sampler, seed: int) -> None:
    draw = random_draw(seed)
    rows = sampler(draw)
    assert rows.shape == (draw.size,)
    assert rows.dtype.kind == "i"
    assert len({*rows.tolist()}) == draw.size
    assert {*rows.tolist()} <= {*range(len(draw.loss))}


@pytest.mark.parametrize("sampler", ONCE)
@given(seed=st.integers(0, 10_000))
def test_an_epoch_without_replacement_draws_what_remains(sampler: Sampler, seed: int) -> None:
    draw = random_draw(seed)
    assert draw.remaining[sampler(draw)].all()
    rest = replace(draw, size=int(draw.remaining.sum()))
    assert sorted(sampler(rest)) == np.flatnonzero(draw.remaining).tolist()


@pytest.mark.parametrize("sampler", ALL)
@given(seed=st.integers(0, 10_000))
def test_the_same_draw_gives_the_same_batch_and_changes_nothing(sampler: Sampler, seed: int) -> None:
    draw = random_draw(seed)
    arrays = {name: array.copy() for name, array in vars(draw).items() if isinstance(array, np.ndarray)}
    first, second = (sampler(replace(draw, rng=rng_of(seed))).tolist() for _ in range(2))
    assert first == second
    assert all(np.array_equal(vars(draw)[name], array, equal_nan=True) for name, array in arrays.items())


@pytest.mark.parametrize("sampler", ALL)
def test_where_nothing_is_known_all_pairs_are_equally_likely(sampler: Sampler) -> None:
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    assert fits(sampler, draw_of(4, size=2), dict.fromkeys(pairs, 1 / 6))


# Weights 1, 2 and 3. Of {0, 1}: 1/6 2/5 + 2/6 1/4 = 9/60; of {0, 2}: 1/6 3/5 + 3/6 1/3 = 16/60; {1, 2} is the rest.
WEIGHTS, BY_WEIGHT = np.log([1, 2, 3]).tolist(), {(0, 1): 9 / 60, (0, 2): 16 / 60, (1, 2): 35 / 60}


def test_the_curriculum_at_its_end_prefers_the_hard_exactly() -> None:
    draw = draw_of(size=2, difficulty=WEIGHTS, progress=1.0)
    assert fits(Curriculum(start=-5.0, end=1.0), draw, BY_WEIGHT)


def test_the_curriculum_at_its_start_prefers_the_easy() -> None:
    """alpha = -1: weights 1, 1/2 and 1/3, that is 6, 3 and 2 of 11."""
    draw = draw_of(difficulty=WEIGHTS, progress=0.0)
    assert fits(Curriculum(start=-1.0, end=9.0), draw, {(0,): 6 / 11, (1,): 3 / 11, (2,): 2 / 11})


def test_the_curriculum_moves_in_a_straight_line() -> None:
    """alpha = -3/4 2 + 1/4 10 = 1 after a quarter."""
    draw = draw_of(difficulty=WEIGHTS, progress=0.25)
    assert fits(Curriculum(start=-2.0, end=10.0), draw, {(0,): 1 / 6, (1,): 2 / 6, (2,): 3 / 6})


def test_the_curriculum_halfway_from_easy_to_hard_is_uniform() -> None:
    assert fits(
        Curriculum(), draw_of(difficulty=[-9.0, 0.0, 9.0], progress=0.5), dict.fromkeys([(0,), (1,), (2,)], 1 / 3)
    )


def test_the_curriculum_draws_among_the_remaining() -> None:
    draw = draw_of(difficulty=WEIGHTS, progress=1.0, remaining=[True, False, True])
    assert fits(Curriculum(end=1.0), draw, {(0,): 1 / 4, (2,): 3 / 4})


def test_the_highest_of_logit_and_noise_is_drawn() -> None:
    """2 x difficulty + noise = 2, 3, 1 and -1."""

    class Noise:
        def gumbel(self, size: int) -> np.ndarray:
            return np.array([2.0, 1.0, -3.0, 1.0])[:size]

    draw = draw_of(4, size=2, difficulty=[0.0, 1.0, 2.0, -1.0], progress=1.0, rng=Noise())
    assert {*Curriculum()(draw).tolist()} == {0, 1}


def test_hard_examples_come_in_proportion_to_the_exponential_of_their_loss() -> None:
    draw = draw_of(size=2, loss=WEIGHTS, remaining=[False, False, True])
    assert fits(HardMining(), draw, BY_WEIGHT)


def test_the_temperature_divides_the_loss() -> None:
    """Losses of 0, 1 and 2 over 1 / ln 2: weights 1, 2 and 4."""
    assert fits(HardMining(1 / np.log(2)), draw_of(loss=[0.0, 1.0, 2.0]), {(0,): 1 / 7, (1,): 2 / 7, (2,): 4 / 7})


@pytest.mark.parametrize("unseen", [NAN, INF])
def test_what_was_never_seen_is_as_hard_as_the_hardest(unseen: float) -> None:
    assert fits(HardMining(), draw_of(loss=[0.0, np.log(2), unseen]), {(0,): 1 / 5, (1,): 2 / 5, (2,): 2 / 5})


@pytest.mark.parametrize("loss", [[0.0, 1e308, -1e308], [1.0, 1e5, 3.0]])
def test_losses_far_apart_draw_the_highest(loss: list[float]) -> None:
    assert {HardMining(1e-3)(draw_of(seed=seed, loss=loss)).item() for seed in range(50)} == {1}


def test_a_topic_comes_in_proportion_to_the_exponential_of_its_mean_loss() -> None:
    """Means of 1 and 1 + ln 3: 1/4, shared by two examples, and 3/4; a loss that is missing is not in the mean."""
    draw = draw_of(4, topic=[0, 0, 1, 1], loss=[0.5, 1.5, 1 + np.log(3), NAN])
    assert fits(Dynamic(1.0), draw, {(0,): 1 / 8, (1,): 1 / 8, (2,): 3 / 8, (3,): 3 / 8})


def test_the_size_of_a_topic_does_not_count() -> None:
    draw = draw_of(4, topic=[0, 1, 1, 1], loss=[0.7] * 4)
    assert fits(Dynamic(), draw, {(0,): 1 / 2, (1,): 1 / 6, (2,): 1 / 6, (3,): 1 / 6})


def test_a_topic_without_a_loss_is_as_hard_as_the_hardest() -> None:
    """Means of 0, 0.25 ln 2 and none, over 0.25: weights 1, 2 and 2."""
    draw = draw_of(topic=[0, 1, 2], loss=[0.0, 0.25 * np.log(2), NAN])
    assert fits(Dynamic(), draw, {(0,): 1 / 5, (1,): 2 / 5, (2,): 2 / 5})


def test_a_topic_is_drawn_from_what_remains_of_it_and_then_from_all_of_it() -> None:
    draw = draw_of(4, topic=[1, 1, 0, 0], remaining=[True, False, False, False])
    assert fits(Dynamic(), draw, {(0,): 1 / 2, (2,): 1 / 4, (3,): 1 / 4})


@given(seed=st.integers(0, 10_000))
def test_the_nearest_in_length_come_together(seed: int) -> None:
    draw = draw_of(5, seed, size=2, length=[10, 52, 90, 11, 50], remaining=[True, True, False, True, True])
    assert {*LengthGrouped()(draw).tolist()} in ({0, 3}, {1, 4})


def test_lengths_without_a_sign_are_not_wrapped() -> None:
    draws = (draw_of(4, seed, size=2, length=np.array([9, 8, 200, 201], dtype=np.uint8)) for seed in range(50))
    assert {frozenset(LengthGrouped()(draw).tolist()) for draw in draws} == {frozenset({0, 1}), frozenset({2, 3})}


def padding(sampler: Sampler) -> float:
    """The share of an epoch's batches of 8 that is padding, with the lengths of 1000 texts."""
    length = np.exp(rng_of(0).normal(5, 0.7, 1000)).astype(int)
    draw, padded = draw_of(1000, size=8, length=length), 0
    while draw.remaining.any():
        rows = sampler(draw)
        draw.remaining[rows] = False
        padded += 8 * length[rows].max()
    return 1 - float(length.sum() / padded)


def test_grouping_by_length_leaves_little_padding() -> None:
    assert padding(Shuffled()) > 0.5
    assert padding(LengthGrouped()) < 0.08


@pytest.mark.parametrize("cls", [HardMining, Dynamic])
@pytest.mark.parametrize("temperature", [0, -1])
def test_a_temperature_is_positive(cls: type, temperature: float) -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        TypeAdapter(cls).validate_python({"temperature": temperature})


def test_names() -> None:
    assert {cls: name for name, cls in register_sampler().items()} == {
        Shuffled: "shuffled",
        LengthGrouped: "length_grouped",
        Curriculum: "curriculum",
        HardMining: "hard_mining",
        Dynamic: "dynamic",
    }
