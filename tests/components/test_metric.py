"""Metrics of a reward model: worked by hand, a published calibration error, and what order must not change."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rlhf_plugins.components.metric import Accuracy, Calibration, LengthBias, RankCorrelation, register_metric
from rlhf_plugins.interfaces import Metric, ScoredPairs

METRICS: list[Metric] = [Accuracy(), Calibration(), LengthBias(), RankCorrelation()]


def scored(
    chosen: Sequence[float],
    rejected: Sequence[float],
    lengths: Sequence[Sequence[int]] | None = None,
    gold: Sequence[Sequence[float]] | None = None,
) -> ScoredPairs:
    longer = lengths or ([2] * len(chosen), [1] * len(chosen))
    known = [np.array(side) for side in gold] if gold else [None, None]
    return ScoredPairs(np.array(chosen), np.array(rejected), *map(np.array, longer), *known)


def random_pairs(seed: int, n: int = 12) -> ScoredPairs:
    draw = np.random.default_rng(seed)
    lengths, gold = draw.integers(1, 50, (2, n)), draw.normal(size=(2, n))
    return ScoredPairs(*draw.normal(size=(2, n)), *lengths, *gold)


def turned(pairs: ScoredPairs) -> ScoredPairs:
    lengths, gold = (pairs.rejected_length, pairs.chosen_length), (pairs.rejected_gold, pairs.chosen_gold)
    return ScoredPairs(pairs.rejected, pairs.chosen, *lengths, *gold)


def test_accuracy_counts_a_tie_as_one_half() -> None:
    found = Accuracy()(scored([3.0, 1.0, 2.0, 5.0], [1.0, 2.0, 2.0, 4.0], ([9, 1, 1, 5], [1, 9, 2, 5])))
    assert found == {"accuracy": 0.625, "accuracy_longer_response": 0.375}  # 2.5 / 4 and 1.5 / 4


def test_calibration_by_hand() -> None:
    # p = 3/4 for every pair and 3 of 4 are right: read both ways, the bins of 3/4 and of 1/4 are exact
    found = Calibration(bins=10)(scored([log(3)] * 3 + [0.0], [0.0] * 3 + [log(3)]))
    assert found["calibration_ece"] == pytest.approx(0.0)
    assert found["calibration_brier"] == pytest.approx(3 / 4 * 1 / 16 + 1 / 4 * 9 / 16)


def test_calibration_of_an_overconfident_model() -> None:
    # p = 9/10, half are right: both bins are off by 4/10
    found = Calibration()(scored([log(9), 0.0], [0.0, log(9)]))
    assert found["calibration_ece"] == pytest.approx(0.4)
    assert found["calibration_brier"] == pytest.approx((0.01 + 0.81) / 2)


def test_published_calibration_error() -> None:
    # torchmetrics: predictions .25 .25 .55 .75 .75 of targets 0 0 1 1 1 in 2 bins have an L1 error of .29. As pairs,
    # a prediction of a target 0 is 1 - p for the response that was preferred. Read both ways round each of the two
    # bins mirrors the other; the published bins err on one side (0 - .25, 1 - .683), so folding them changes nothing.
    p = np.array([0.75, 0.75, 0.55, 0.75, 0.75])
    found = Calibration(bins=2)(scored(np.log(p / (1 - p)).tolist(), [0.0] * 5))
    assert found["calibration_ece"] == pytest.approx(0.29)


def test_calibration_of_equal_rewards_is_that_of_a_fair_coin() -> None:
    found = Calibration()(scored([1.0, 2.0], [1.0, 2.0]))
    assert found == {"calibration_ece": 0.0, "calibration_brier": 0.25}


def test_rank_correlation_by_hand() -> None:
    # rewards (4, 3, 2, 1) against gold (3, 4, 2, 1): d = (1, 1, 0, 0), rho = 1 - 6 * 2 / (4 * 15); 1 of 6 is discordant
    found = RankCorrelation()(scored([4.0, 2.0], [3.0, 1.0], gold=([3.0, 2.0], [4.0, 1.0])))
    assert found["rank_correlation_spearman"] == pytest.approx(0.8)
    assert found["rank_correlation_kendall"] == pytest.approx(4 / 6)


def test_kendall_corrects_for_ties() -> None:
    # rewards (1, 1, 2, 3), gold (1, 2, 3, 4): 5 concordant of 6, one tie in x: 5 / sqrt(5 * 6)
    found = RankCorrelation()(scored([1.0, 1.0], [2.0, 3.0], gold=([1.0, 2.0], [3.0, 4.0])))
    assert found["rank_correlation_kendall"] == pytest.approx(5 / 30**0.5)


def test_without_gold_there_is_no_rank_correlation() -> None:
    assert RankCorrelation()(scored([1.0], [0.0])) == {}


def test_length_bias_by_hand() -> None:
    found = LengthBias()(scored([4.0, 2.0], [3.0, 1.0], ([3, 2], [4, 1])))
    assert found == {"length_bias": pytest.approx(0.8)}  # the ranks of the test above


@given(st.integers(0, 10_000))
def test_reversed_pairs_are_complementary(seed: int) -> None:
    pairs = random_pairs(seed)
    forth, back = Accuracy()(pairs), Accuracy()(turned(pairs))
    assert {name: forth[name] + back[name] for name in forth} == pytest.approx(dict.fromkeys(forth, 1.0))
    for metric in (RankCorrelation(), LengthBias()):
        assert metric(turned(pairs)) == pytest.approx(dict(metric(pairs)))


@pytest.mark.parametrize("metric", METRICS)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(12)))
def test_the_order_of_pairs_never_counts(metric: Metric, seed: int, order: list[int]) -> None:
    pairs = random_pairs(seed)
    fields = (getattr(pairs, name)[order] for name in ScoredPairs.__dataclass_fields__)
    assert metric(ScoredPairs(*fields)) == pytest.approx(dict(metric(pairs)))


@given(st.integers(0, 10_000), st.integers(1, 30))
def test_calibration_lies_between_0_and_1(seed: int, bins: int) -> None:
    assert all(0 <= value <= 1 for value in Calibration(bins)(random_pairs(seed)).values())


@pytest.mark.parametrize("metric", METRICS)
def test_large_differences_stay_finite(metric: Metric) -> None:
    pairs = scored([1e4, -1e4], [0.0, 0.0], ([1, 2], [3, 4]), ([1e4, 0.0], [0.0, 1.0]))
    assert np.isfinite(list(metric(pairs).values())).all()


@pytest.mark.parametrize("bins", [0, -1, "many"])
def test_there_must_be_a_bin(bins: object) -> None:
    with pytest.raises(ValidationError, match="bins"):
        TypeAdapter(Calibration).validate_python({"bins": bins})


def test_every_number_begins_with_its_metrics_name() -> None:
    for name, cls in register_metric().items():
        assert all(found.startswith(name) for found in cls()(random_pairs(0)))


def test_names_of_the_recipe() -> None:
    assert sorted(register_metric()) == ["accuracy", "calibration", "length_bias", "rank_correlation"]
