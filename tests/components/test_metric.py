"""Metrics of a reward model: worked by hand, a published calibration error, and what order must not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log, log1p, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rlhf_plugins.components.metric import (
    AUC,
    Accuracy,
    AccuracyByTopic,
    AgreementByAnnotator,
    Calibration,
    CrossEntropy,
    LengthBias,
    RankCorrelation,
    TemperatureScaling,
    Uncertainty,
    best_temperature,
    calibration_errors,
    register_metric,
)
from rlhf_plugins.components.metric_rescored import register_metric as register_rescored
from rlhf_plugins.contract.interfaces import Metric
from rlhf_plugins.contract.records import ScoredPairs

METRICS: list[Metric] = [
    Accuracy(),
    AccuracyByTopic(),
    AUC(),
    Calibration(),
    CrossEntropy(),
    LengthBias(),
    RankCorrelation(),
    TemperatureScaling(),
    Uncertainty(),
]


def test_votes_are_calibrated_as_shares_by_hand() -> None:
    """Both ways p is 2/3, 1, 1/3, 0 of 1, 1, 0, 0: gaps of 1/3 in two of four bins of one, squares of 1/9."""
    pairs = scored([2 / 3, 1.0], [1 / 3, 0.0], probability=[2 / 3, 1.0])
    found = Calibration()(pairs)
    assert found["calibration_ece"] == pytest.approx(1 / 6)
    assert found["calibration_mce"] == pytest.approx(1 / 3)
    assert found["calibration_brier"] == pytest.approx(1 / 18)
    assert {**CrossEntropy()(pairs), **TemperatureScaling()(pairs)} == {}


def test_equal_shares_of_votes_are_in_one_bin() -> None:
    """p is 0.9, 0.1, 1 - 0.9 and 1 - 0.1, which rounds to less than 0.1; each is right half the time."""
    found = Calibration()(scored([0.9, 0.1], [0.1, 0.9], probability=[0.9, 0.1]))
    assert found["calibration_mce"] == pytest.approx(0.4)


VARIANCES = ("chosen_variance", "rejected_variance", "chosen_epistemic", "rejected_epistemic")


def scored(
    chosen: Sequence[float],
    rejected: Sequence[float],
    lengths: Sequence[Sequence[int]] | None = None,
    gold: Sequence[Sequence[float]] | None = None,
    **more: Any,
) -> ScoredPairs:
    longer = lengths or ([2] * len(chosen), [1] * len(chosen))
    known = [np.array(side) for side in gold] if gold else [None, None]
    others = {name: np.array(values) for name, values in more.items()}
    return ScoredPairs(np.array(chosen), np.array(rejected), *map(np.array, longer), *known, **others)


def random_pairs(seed: int, n: int = 12) -> ScoredPairs:
    draw = np.random.default_rng(seed)
    lengths, gold, variances = draw.integers(1, 50, (2, n)), draw.normal(size=(2, n)), draw.random((4, n))
    texts = {name: draw.choice(["a", "b", ""], n) for name in ("topic", "annotator")}
    columns = {"prompt": draw.integers(0, 5, n), **texts}
    known = dict(zip(VARIANCES, variances, strict=True))
    return ScoredPairs(*draw.normal(size=(2, n)), *lengths, *gold, **columns, **known)


def turned(pairs: ScoredPairs) -> ScoredPairs:
    lengths, gold = (pairs.rejected_length, pairs.chosen_length), (pairs.rejected_gold, pairs.chosen_gold)
    return ScoredPairs(pairs.rejected, pairs.chosen, *lengths, *gold, prompt=pairs.prompt)


def test_accuracy_counts_a_tie_as_one_half() -> None:
    found = Accuracy()(scored([3.0, 1.0, 2.0, 5.0], [1.0, 2.0, 2.0, 4.0], ([9, 1, 1, 5], [1, 9, 2, 5])))
    assert (found["accuracy"], found["accuracy_longer_response"]) == (0.625, 0.375)  # 2.5 / 4 and 1.5 / 4
    assert found["accuracy_low"] < 0.625 < found["accuracy_high"]


def test_an_accuracy_of_few_prompts_has_students_interval() -> None:
    """Of three prompts 1 of 2, 1 of 1 and 0 of 1 pairs: 2 / 4, deviations 0, 1/2 and -1/2; beyond 0 and 1."""
    found = Accuracy()(scored([1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0], prompt=[0, 0, 1, 2]))
    assert (found["accuracy_low"], found["accuracy_high"]) == (0.0, 1.0)  # 1/2 +- 4.303 sqrt(3 / 2 / 2) / 4
    chosen = [1.0, 1.0, 1.0, 0.0] * 5
    found = Accuracy()(scored(chosen, [0.5] * 20, prompt=[*range(20)]))
    half = 2.093024 * (3 / 16 / 19) ** 0.5
    assert found["accuracy_high"] == pytest.approx(0.75 + half, abs=1e-6)


def test_the_interval_draws_prompts_not_pairs() -> None:
    # 40 prompts of 10 pairs that are all right or all wrong hold 40 facts, not 400: sqrt(10) times the width
    right = np.repeat(np.random.default_rng(0).random(40) < 0.5, 10)
    pairs = scored(right.astype(float).tolist(), [0.5] * 400, prompt=np.repeat(np.arange(40), 10))
    widths = [found["accuracy_high"] - found["accuracy_low"] for found in map(Accuracy(), (pairs, alone(pairs)))]
    assert widths[0] == pytest.approx(2 * 1.96 * right.std() / sqrt(40), rel=0.1)
    assert widths[0] / widths[1] == pytest.approx(sqrt(10), rel=0.1)


def alone(pairs: ScoredPairs) -> ScoredPairs:
    return replace(pairs, prompt=None)


@pytest.mark.parametrize(("prompts", "low"), [([0, 0, 0], 0.206549), ([0, 1, 2], 0.438503)])
def test_prompts_that_agree_leave_wilsons_width(prompts: list[int], low: float) -> None:
    found = Accuracy()(scored([1.0] * 3, [0.0] * 3, prompt=prompts))  # n / (n + 1.96^2) of 1 and of 3 prompts
    assert [found[f"accuracy{end}"] for end in ("", "_low", "_high")] == pytest.approx([1.0, low, 1.0], abs=1e-6)
    found = Accuracy()(scored([0.0] * 3, [1.0] * 3, prompt=prompts))
    assert [found[f"accuracy{end}"] for end in ("", "_low", "_high")] == pytest.approx([0.0, 0.0, 1 - low], abs=1e-6)


def test_an_interval_of_many_prompts_is_near_the_normal_one() -> None:
    draw = np.random.default_rng(0)
    found = Accuracy()(scored(draw.normal(0.5, 1.0, 4000).tolist(), [0.0] * 4000))
    half = 1.96 * sqrt(found["accuracy"] * (1 - found["accuracy"]) / 4000)
    assert found["accuracy_low"] == pytest.approx(found["accuracy"] - half, abs=0.002)
    assert found["accuracy_high"] == pytest.approx(found["accuracy"] + half, abs=0.002)


def test_calibration_by_hand() -> None:
    # p = 3/4 for every pair and 3 of 4 are right: read both ways, the bins of 3/4 and of 1/4 are exact
    found = Calibration(bins=10)(scored([log(3)] * 3 + [0.0], [0.0] * 3 + [log(3)]))
    assert found["calibration_ece"] == pytest.approx(0.0)
    assert found["calibration_brier"] == pytest.approx(3 / 4 * 1 / 16 + 1 / 4 * 9 / 16)


def test_calibration_of_an_overconfident_model() -> None:
    # p = 9/10, half are right: both bins are off by 4/10
    found = Calibration()(scored([log(9), 0.0], [0.0, log(9)]))
    assert (found["calibration_ece"], found["calibration_mce"]) == pytest.approx((0.4, 0.4))
    assert found["calibration_brier"] == pytest.approx((0.01 + 0.81) / 2)


def test_the_largest_calibration_error_is_of_one_bin() -> None:
    # p = 9/10, half right: off by 4/10; p = 3/5, all 6 right: off by 4/10 too; p = 3/4, 3 of 4 right: exact
    gaps = [log(9), -log(9), *[log(1.5)] * 6, *[log(3)] * 3, -log(3)]
    found = Calibration()(scored(gaps, [0.0] * 12))
    assert found["calibration_mce"] == pytest.approx(0.4)
    assert found["calibration_ece"] == pytest.approx(0.4 * 8 / 12)


def test_published_calibration_error() -> None:
    # torchmetrics: predictions .25 .25 .55 .75 .75 of targets 0 0 1 1 1 in 2 bins have an L1 error of .29. As pairs,
    # a prediction of a target 0 is 1 - p for the response that was preferred. Read both ways round each of the two
    # bins mirrors the other; the published bins err on one side (0 - .25, 1 - .683), so folding them changes nothing.
    p = np.array([0.75, 0.75, 0.55, 0.75, 0.75])
    found = Calibration(bins=2)(scored(np.log(p / (1 - p)).tolist(), [0.0] * 5))
    assert found["calibration_ece"] == pytest.approx(0.29)


def test_published_norms_of_the_calibration_error() -> None:
    # bins of .4 and .6 of the rows are off by .25 and .31666: .1 + .19, sqrt(.4 .25^2 + .6 .31666^2), and the larger
    found = calibration_errors(np.array([0.25, 0.25, 0.55, 0.75, 0.75]), np.array([0, 0, 1, 1, 1]), bins=2)
    assert found == pytest.approx((0.29, 0.2918332857, 0.3166666667))


def test_calibration_of_equal_rewards_is_that_of_a_fair_coin() -> None:
    found = Calibration()(scored([1.0, 2.0], [1.0, 2.0]))
    assert found == {"calibration_ece": 0.0, "calibration_mce": 0.0, "calibration_brier": 0.25}


def test_a_temperature_by_hand() -> None:
    # gaps of 2 of which 3 in 4 are right: sigmoid(2 / T) = 3/4 where T = 2 / log 3
    assert best_temperature(np.array([2.0, 2.0, 2.0, -2.0])) == pytest.approx(2 / log(3), rel=1e-4)


@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_a_temperature_follows_the_scale_of_rewards(seed: int, scale: float) -> None:
    pairs = random_pairs(seed)
    gap = pairs.chosen - pairs.rejected
    assert best_temperature(scale * gap) == pytest.approx(scale * best_temperature(gap), rel=1e-3)


def test_temperature_scaling_undoes_a_known_overconfidence() -> None:
    # people choose by sigmoid(gap), the model says 5 times the gap
    draw = np.random.default_rng(0)
    gap = np.abs(draw.normal(0.0, 2.0, 8000))
    right = draw.random(8000) < 1 / (1 + np.exp(-gap))
    found = TemperatureScaling()(scored((5 * np.where(right, gap, -gap)).tolist(), [0.0] * 8000))
    assert found["temperature_scaling_temperature"] == pytest.approx(5.0, rel=0.05)
    assert found["temperature_scaling_ece_before"] > 0.1
    assert found["temperature_scaling_ece_after"] < 0.02


def test_a_temperature_is_fitted_on_other_prompts_than_it_is_judged_on() -> None:
    # one prompt is right by log 9 nine times in ten, the other one time in ten; each alone in its half
    gaps = [log(9)] * 9 + [-log(9)] + [-log(9)] * 9 + [log(9)]
    found = TemperatureScaling()(scored(gaps, [0.0] * 20, prompt=[0] * 10 + [1] * 10))
    before, temperature = found["temperature_scaling_ece_before"], found["temperature_scaling_temperature"]
    if temperature == pytest.approx(1.0, rel=1e-3):  # fitted on the first, judged on the second
        assert before == pytest.approx(0.8)
    else:
        assert before == pytest.approx(0.0, abs=1e-9)
        assert temperature > 100


@pytest.mark.parametrize(("chosen", "prompt"), [([1.0, 2.0], [3, 3]), ([0.0, 0.0], [0, 1])])
def test_one_prompt_or_equal_rewards_have_no_temperature(chosen: list[float], prompt: list[int]) -> None:
    assert TemperatureScaling()(scored(chosen, [0.0, 0.0], prompt=prompt)) == {}


def test_cross_entropy_by_hand() -> None:
    # -log 3/4 and -log 1/4
    found = CrossEntropy()(scored([log(3), 0.0], [0.0, log(3)]))
    assert found == {"cross_entropy": pytest.approx((log(4 / 3) + log(4)) / 2)}
    assert CrossEntropy()(scored([1.0], [1.0]))["cross_entropy"] == pytest.approx(log1p(1.0))


def test_auc_by_hand() -> None:
    # gaps (2, -1, 0) against their negatives (-2, 1, 0): 3 + 1 + 1.5 of 9; chosen (2, 0, 1) against rejected (0, 1, 1):
    # 3 + 0.5 + 2 of 9
    found = AUC()(scored([2.0, 0.0, 1.0], [0.0, 1.0, 1.0]))
    assert found == {"auc": pytest.approx(5.5 / 9), "auc_responses": pytest.approx(5.5 / 9)}
    # a reward that a prompt shifts tells its own two responses apart, but no longer those of different prompts
    assert AUC()(scored([1.0, 11.0], [0.0, 10.0])) == {"auc": 1.0, "auc_responses": 0.75}


def test_rank_correlation_by_hand() -> None:
    # rewards (4, 3, 2, 1) against gold (3, 4, 2, 1): d = (1, 1, 0, 0), rho = 1 - 6 * 2 / (4 * 15); 1 of 6 is discordant
    found = RankCorrelation()(scored([4.0, 2.0], [3.0, 1.0], gold=([3.0, 2.0], [4.0, 1.0])))
    assert found["rank_correlation_spearman"] == pytest.approx(0.8)
    assert found["rank_correlation_kendall"] == pytest.approx(4 / 6)


def test_kendall_corrects_for_ties() -> None:
    # rewards (1, 1, 2, 3), gold (1, 2, 3, 4): 5 concordant of 6, one tie in x: 5 / sqrt(5 * 6)
    found = RankCorrelation()(scored([1.0, 1.0], [2.0, 3.0], gold=([1.0, 2.0], [3.0, 4.0])))
    assert found["rank_correlation_kendall"] == pytest.approx(5 / 30**0.5)


def test_a_response_in_many_pairs_counts_once() -> None:
    # rewards 3 2 1 and gold 2 3 1 of one prompt, in all three pairs: d = (1, 1, 0), rho = 1 - 6 * 2 / (3 * 8)
    gold = ([3.0, 2.0, 3.0], [2.0, 1.0, 1.0])
    pairs = scored([2.0, 3.0, 2.0], [3.0, 1.0, 1.0], ([1] * 3, [1] * 3), gold, prompt=[7, 7, 7])
    assert RankCorrelation()(pairs)["rank_correlation_spearman"] == pytest.approx(0.5)


def test_ratings_stand_in_for_gold_where_they_are_known() -> None:
    ratings = {"chosen_rating": [3.0, 2.0, np.nan], "rejected_rating": [4.0, 1.0, np.nan]}
    found = RankCorrelation()(scored([4.0, 2.0, 9.0], [3.0, 1.0, 8.0], ([1] * 3, [1] * 3), **ratings))
    assert found["rank_correlation_spearman"] == pytest.approx(0.8)  # that of gold above


def test_without_truth_or_difference_there_is_no_rank_correlation() -> None:
    assert RankCorrelation()(scored([1.0], [0.0])) == {}
    assert RankCorrelation()(scored([1.0, 1.0], [1.0, 1.0], gold=([1.0, 2.0], [0.0, 1.0]))) == {}


def test_accuracy_by_topic_by_hand() -> None:
    pairs = scored([1.0, 1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0, 1.0], topic=["b", "b", "b", "a\x1bz", ""])
    assert AccuracyByTopic()(pairs) == {
        "accuracy_by_topic_worst": 0.5,
        "accuracy_by_topic/a\ufffdz": 0.5,
        "accuracy_by_topic/b": pytest.approx(2 / 3),
    }
    assert AccuracyByTopic()(replace(pairs, topic=None)) == {}


def test_agreement_by_annotator_by_hand() -> None:
    pairs = scored([1.0, 1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0, 1.0], annotator=["b", "b", "b", "a", ""])
    assert AgreementByAnnotator()(pairs) == {
        "agreement_by_annotator/b": pytest.approx(2 / 3),
        "agreement_by_annotator/a": 0.5,
        "agreement_by_annotator_labels/b": 3,
        "agreement_by_annotator_labels/a": 1,
    }
    assert AgreementByAnnotator()(replace(pairs, annotator=None)) == {}


def test_of_many_annotators_the_rare_ones_are_put_together() -> None:
    who = [f"p{i:02}" for i in range(22) for _ in range(2 if i < 20 else 1)]
    found = AgreementByAnnotator()(scored([1.0] * 42, [0.0] * 41 + [2.0], annotator=who))
    assert len(found) == 2 * 21
    assert (found["agreement_by_annotator/2 others"], found["agreement_by_annotator_labels/2 others"]) == (0.5, 2)


def test_length_bias_by_hand() -> None:
    found = LengthBias()(scored([4.0, 2.0], [3.0, 1.0], ([3, 2], [4, 1])))
    assert found["length_bias"] == pytest.approx(0.8)  # the ranks of the test above


def test_accuracy_where_length_cannot_help_and_where_it_misleads() -> None:
    # lengths 100 and 91 match, 100 and 90 do not; the first and the last two are chosen though shorter
    found = LengthBias()(scored([1, 0, 1, 0], [0, 1, 0, 1], ([91, 100, 50, 10], [100, 90, 100, 100])))
    assert (found["length_bias_matched"], found["length_bias_matched_pairs"]) == (1.0, 1.0)
    assert (found["length_bias_shorter"], found["length_bias_shorter_pairs"]) == (pytest.approx(2 / 3), 3.0)


def test_uncertainty_by_hand() -> None:
    # gaps 3, 1, -2, -1 with variances 1, 4, 5, 2: the errors are the last two, whose variances are above the others'
    # in 2 + 1 of 4 comparisons, and whose |gap| is below in 1 + 1.5
    doubt = {"chosen_variance": [0.5, 2.0, 2.5, 1.0], "rejected_variance": [0.5, 2.0, 2.5, 1.0]}
    found = Uncertainty()(scored([3.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 1.0], **doubt))
    aurocs = {"uncertainty_auroc_variance": 0.75, "uncertainty_auroc_gap": 0.625}
    assert found == {**aurocs, "uncertainty_aleatoric": 1.5}  # (0.5 + 2 + 2.5 + 1) / 4
    assert Uncertainty()(scored([3.0, 1.0, 0.0], [0.0, 0.0, 2.0])) == {"uncertainty_auroc_gap": 0.5}


def test_a_variance_finds_the_responses_whose_reward_is_far_from_their_rating() -> None:
    # errors 0, 1, 2, 3, of which the last two are above the median; variances 1, 4, 2, 5: 1 + 2 of 4 comparisons
    known = {"chosen_rating": [3.0, 2.0], "rejected_rating": [2.0, 3.0]}
    doubt = {"chosen_variance": [1.0, 4.0], "rejected_variance": [2.0, 5.0]}
    found = Uncertainty()(scored([3.0, 1.0], [0.0, 0.0], **known, **doubt))
    assert found["uncertainty_auroc_rating"] == 0.75


def test_epistemic_variance_stands_apart_from_aleatoric() -> None:
    # the only error is the last pair: its predicted variance, 0 + 1, is the least; its members', 1 + 3, the greatest
    doubt = {"chosen_variance": [2.0, 2.0, 0.0], "rejected_variance": [2.0, 2.0, 1.0]}
    spread = {"chosen_epistemic": [1.0, 0.0, 1.0], "rejected_epistemic": [1.0, 0.0, 3.0]}
    found = Uncertainty()(scored([2.0, 1.0, 0.0], [0.0, 0.0, 3.0], **doubt, **spread))
    assert (found["uncertainty_auroc_variance"], found["uncertainty_auroc_epistemic"]) == (0.0, 1.0)
    assert (found["uncertainty_aleatoric"], found["uncertainty_epistemic"]) == (9 / 6, 6 / 6)
    alone = Uncertainty()(scored([2.0, 1.0, 0.0], [0.0, 0.0, 3.0], **spread))
    assert alone == {name: value for name, value in found.items() if "variance" not in name and "alea" not in name}


def test_a_response_in_two_pairs_counts_once_in_a_mean_variance() -> None:
    spread = {"chosen_epistemic": [4.0, 4.0], "rejected_epistemic": [1.0, 1.0]}  # one chosen above two rejected
    found = Uncertainty()(scored([3.0, 3.0], [0.0, 1.0], prompt=[5, 5], **spread))
    assert found == {"uncertainty_epistemic": 2.0}  # (4 + 1 + 1) / 3


@pytest.mark.parametrize("chosen", [[1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]])
def test_a_model_that_never_or_always_errs_has_no_auroc(chosen: list[float]) -> None:
    assert Uncertainty()(scored(chosen, [0.0, 0.0])) == {}


@given(st.integers(0, 10_000))
def test_reversed_pairs_are_complementary(seed: int) -> None:
    pairs = random_pairs(seed)
    forth, back = Accuracy()(pairs), Accuracy()(turned(pairs))
    for name in ("accuracy", "accuracy_longer_response"):
        assert forth[name] + back[name] == pytest.approx(1.0)
    assert AUC()(pairs)["auc"] + AUC()(turned(pairs))["auc"] == pytest.approx(1.0)
    assert RankCorrelation()(turned(pairs)) == pytest.approx(dict(RankCorrelation()(pairs)))
    assert LengthBias()(turned(pairs)).get("length_bias") == pytest.approx(LengthBias()(pairs)["length_bias"])


@pytest.mark.parametrize("metric", METRICS)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(12)))
def test_the_order_of_pairs_never_counts(metric: Metric, seed: int, order: list[int]) -> None:
    pairs = random_pairs(seed)
    known = {name: values[order] for name, values in vars(pairs).items() if values is not None}
    rounding = 1e-4 if isinstance(metric, TemperatureScaling) else 1e-6  # its search ends within 1e-5 of log T
    assert metric(ScoredPairs(**known)) == pytest.approx(dict(metric(pairs)), rel=rounding, abs=1e-9)


@given(st.integers(0, 10_000), st.integers(1, 30))
def test_calibration_lies_between_0_and_1(seed: int, bins: int) -> None:
    found = Calibration(bins)(random_pairs(seed))
    assert all(0 <= value <= 1 for value in found.values())
    assert found["calibration_ece"] <= found["calibration_mce"] + 1e-12


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
    names = "accuracy accuracy_by_topic agreement_by_annotator auc calibration certificate cross_entropy length_bias"
    more = "rank_correlation temperature_scaling uncertainty"
    assert sorted(register_metric()) == [*names.split(), *more.split()]
    assert sorted(register_rescored()) == ["consistency", "robustness", "speed"]
