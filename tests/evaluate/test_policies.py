"""A policy's row of the report: best-of-n, what judges, and numbers worked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch import tensor

from rlhf_plugins.arithmetic.intervals import Interval
from rlhf_plugins.contract.records import Prediction, Verdict
from rlhf_plugins.contract.rows import Group, Samples, Text
from rlhf_plugins.errors import RunError
from rlhf_plugins.evaluate.judges import PairJudge, ScoreJudge, perplexity
from rlhf_plugins.evaluate.policies import (
    Judged,
    best_of,
    best_of_kl,
    complete,
    controlled,
    cut_share,
    measure,
    sequence_kls,
)
from rlhf_plugins.report.schema import PartReport
from rlhf_plugins.reward_models.handle import RewardHandle

SAMPLES = Samples(["p", "q", "r"], ["a b a", "c", ""], [[1], [2], [3]], [[4, 5, 4, 0], [6, 0], [0]])


def worth(prompt: str, response: str) -> dict[str, float]:
    return {"helpful": float(len(response)), "total": len(prompt) + 10.0 * len(response)}


# log n - (n - 1)/n
@pytest.mark.parametrize(
    ("n", "kl"),
    [
        (1, 0.0),
        (2, 0.1931471806),
        (4, 0.6362943611),
        (16, 1.835088722),
        (64, 3.174508083),
        (1000, 5.908755279),
        (12500, 8.433563923),
    ],
)
def test_published_kl_of_best_of_n(n: int, kl: float) -> None:
    assert best_of_kl(n) == pytest.approx(kl, abs=1e-9)


def test_best_of_n_by_hand() -> None:
    scores = np.array([1.0, 3.0, 9.0, 2.0, 2.0, 0.0])  # three responses to each of two prompts
    assert best_of(scores, 3, 3) == [2, 3]  # of equal scores the first
    assert best_of(scores, 3, 2) == [1, 3]
    assert best_of(scores, 3, 1) == [0, 3]


def test_a_response_without_a_score_is_not_the_best_of_n() -> None:
    assert best_of(np.array([1.0, np.nan, 0.0, np.nan, np.nan, -9.0]), 3, 3) == [0, 5]


def test_best_of_n_gains_what_order_statistics_say() -> None:
    scores = np.random.default_rng(0).uniform(size=40_000)
    assert scores[best_of(scores, 4, 4)].mean() == pytest.approx(4 / 5, abs=0.01)  # n / (n + 1)


class Linear:
    """Two tokens a response, whose log-probabilities are divided by the temperature."""

    def __init__(self, *log_probs: float) -> None:
        self.log_probs_at_1 = tensor([log_probs] * len(SAMPLES.responses))

    def log_probs(self, samples: Samples, temperature: float = 1.0) -> Any:
        return self.log_probs_at_1 / temperature


def test_a_kl_is_taken_at_the_temperature_of_the_samples() -> None:
    """Ratios of 1 and -0.5 halve at 2; of so few responses it is k3, e^-x - 1 + x of each token."""
    own, other = Linear(-1.0, -2.0), Linear(-2.0, -1.5)
    expected = sum(np.exp(-x) - 1 + x for x in (0.5, -0.25))
    assert sequence_kls(own, other, SAMPLES, 2.0).tolist() == pytest.approx([expected] * 3)  # type: ignore[arg-type]


def test_a_policy_that_never_moved_has_no_kl() -> None:
    assert controlled(np.zeros((30, 4))).tolist() == [0.0] * 30


def test_some_of_the_samples() -> None:
    found = SAMPLES.take([2, 0])
    assert (found.prompts, found.responses) == (["r", "p"], ["", "a b a"])
    assert (found.prompt_ids, found.response_ids) == ([[3], [1]], [[0], [4, 5, 4, 0]])


def test_gold_judges_where_it_is_known() -> None:
    judge = ScoreJudge(worth, None)
    assert (judge.name, judge.scores(SAMPLES).tolist()) == ("gold reward", [51.0, 11.0, 1.0])
    assert judge.worths(SAMPLES)[0] == {"helpful": 5.0, "total": 51.0}


def test_else_the_reward_model_judges() -> None:
    judge = ScoreJudge(
        None, RewardHandle(lambda samples: Prediction(tensor([len(ids) / 2 for ids in samples.response_ids])))
    )
    assert (judge.name, judge.scores(SAMPLES).tolist()) == ("reward model score", [2.0, 1.0, 0.5])
    assert judge.worths(SAMPLES) == []


def test_a_score_that_is_not_finite_is_refused() -> None:
    with pytest.raises(RunError, match="1 of 3 reward model scores are not finite"):
        ScoreJudge(None, RewardHandle(lambda samples: Prediction(tensor([0.0, float("nan"), 1.0])))).scores(SAMPLES)


def test_a_response_without_a_score_leaves_its_prompt_out_for_all() -> None:
    answer = Prediction(tensor([1.0, 0.0, 3.0]), abstained=tensor([False, True, False]))
    scores = ScoreJudge(None, RewardHandle(lambda samples: answer)).scores(SAMPLES)
    kept, places = complete(
        {"base": Judged(SAMPLES, np.array([1.0, 2.0, 3.0]), 0.0), "dpo": Judged(SAMPLES, scores, 1.0)}
    )
    assert (np.isnan(scores).tolist(), places) == ([False, True, False], [0, 2])
    assert (kept["base"].scores.tolist(), kept["dpo"].samples.prompts) == ([1.0, 3.0], ["p", "r"])
    with pytest.raises(RunError, match="the judge scored the responses of all policies to 1 prompts of 3"):
        complete({"base": Judged(SAMPLES, np.array([1.0, np.nan, np.nan]), 0.0)})


def test_a_judge_that_always_says_the_first_is_right_half_the_time() -> None:
    pairs = [Group("p", (f"better {i}", f"worse {i}")) for i in range(10)]

    def first(prompts: Sequence[Text], ours: Sequence[str], theirs: Sequence[str]) -> list[Verdict]:
        return [Verdict(1.0) for _ in prompts]

    def right(prompts: Sequence[Text], ours: Sequence[str], theirs: Sequence[str]) -> list[Verdict]:
        return [Verdict(float(text.startswith("better"))) for text in ours]

    found = [PairJudge(ask, "base", lambda name, make: make(), "").accuracy(pairs) for ask in (first, right)]
    assert [one and one["accuracy"] for one in found] == [0.5, 1.0]


def test_pairs_that_a_judge_leaves_open_are_not_counted() -> None:
    """Every other pair is turned: .9 and 1 - .2 are right, the third has no answer, and the fourth is a tie."""
    said = (("four", "one"), ("one", "four"), ("four", "one"), ("one", "two"))
    pairs, given = (
        [Group("p", pair) for pair in said],
        [Verdict(0.9), Verdict(0.2), Verdict(None, "failed"), Verdict(0.5)],
    )
    found = PairJudge(lambda *asked: given, "base", lambda name, make: make(), "").accuracy(pairs)
    assert found is not None
    assert (found["accuracy"], found["n"]) == (2.5 / 3, 3)
    assert found["longer_response_accuracy"] == 1.5 / 3  # longer, shorter, as long

    open_ = PairJudge(lambda *asked: [Verdict(None, "abstained")] * 4, "base", lambda name, make: make(), "")
    assert [open_.accuracy(pairs), open_.accuracy([])] == [None, None]


def test_perplexity_by_hand() -> None:
    assert perplexity(np.log([1 / 4, 1 / 2]), np.array([2, 1])) == pytest.approx(2.0)  # 8 ** (1/3)


def test_a_response_is_cut_where_it_has_all_tokens_and_no_end() -> None:
    # of 4, 2 and 1 tokens, all of which end with 0
    assert [cut_share(SAMPLES, longest, {0}) for longest in (1, 4)] == [0.0, 0.0]
    assert [cut_share(SAMPLES, longest, {9}) for longest in (1, 2, 4, 5)] == pytest.approx([1.0, 2 / 3, 1 / 3, 0.0])


def test_a_row_by_hand() -> None:
    reference = Judged(SAMPLES, np.array([1.0, 1.0, 1.0]), kl=0.0)
    policy = Judged(SAMPLES, np.array([2.0, 1.0, 3.0]), kl=1.5, elsewhere=np.array([4.0, 4.0]))
    row = measure(policy, reference, ceiling=3.0, worths=[{"helpful": h, "total": 0.0} for h in (1.0, 2.0, 6.0)])
    assert (row["gold"]["mean"], row["n"], row["kl"]) == (2.0, 3, 1.5)
    assert row["gain"]["mean"] == 1.0
    assert row["normalised"] == 50.0  # (2 - 1) / (3 - 1)
    assert row["win_rate"]["mean"] == pytest.approx(2.5 / 3)
    assert row["win_p_value"] == 0.5  # 2 wins of 2: 2 / 4
    assert row["length"] == pytest.approx(7 / 3)  # tokens 4, 2 and 1
    assert (row["distinct_1"], row["distinct_2"]) == (3 / 4, 1.0)  # a b c of a b a c
    assert row["dimensions"] == {"helpful": 3.0}
    assert row["out_of_distribution"] == {"mean": 4.0, "low": 4.0, "high": 4.0}


def test_of_several_responses_a_prompt_counts_once_by_hand() -> None:
    """Two prompts with two responses each: means 2 and 4 against 1 and 4, so that one is won and one tied."""
    prompts, texts, ids = ["p", "p", "q", "q"], ["a", "a", "b b", "b"], [[4, 0], [4, 0], [5, 5, 0], [0]]
    samples = Samples(prompts, texts, [[1], [1], [2], [2]], ids)
    policy = Judged(samples, np.array([1.0, 3.0, 4.0, np.nan]), 0.0, per_prompt=2)
    reference = Judged(samples, np.array([0.0, 2.0, 3.0, 5.0]), 0.0, per_prompt=2)
    row = measure(policy, reference, ceiling=4.5, worths=[])
    assert (row["gold"]["mean"], row["n"], row["gain"]["mean"]) == (3.0, 2, 0.5)
    assert row["normalised"] == 25.0  # (3 - 2.5) / (4.5 - 2.5)
    assert row["win_rate"]["mean"] == 0.75
    assert row["length"] == 2.0  # tokens 2, 2, 3 and 1
    assert row["distinct_1"] == 2 / 3  # of the first responses, a and b b


NAN = float("nan")


def test_parts_of_a_score_by_hand() -> None:
    """Two responses to each of three prompts, whose means of `right` are 1 (of one), none and 0.25; none has `rare`."""
    samples = SAMPLES.take([0, 0, 1, 1, 2, 2])
    parts = {"right": np.array([1.0, NAN, NAN, NAN, 0.5, 0.0]), "rare": np.full(6, NAN)}
    policy = Judged(samples, np.zeros(6), 0.0, per_prompt=2, parts=parts)
    reference = Judged(SAMPLES, np.zeros(3), 0.0, parts={"right": np.array([0.5, 0.0, 0.0])})
    row = measure(policy, reference, None, [])
    assert list(row["parts"]) == ["right"]
    right = PartReport.model_validate(row["parts"]["right"])
    assert (right.mean, right.n) == (0.625, 2)  # (1 + 0.25) / 2
    assert right.low < 0.625 < right.high
    assert right.gain is not None
    assert right.gain.mean == 0.375  # (0.5 + 0.25) / 2
    assert measure(reference, reference, None, [])["parts"]["right"]["gain"] is None
    kept, _ = complete({"policy": replace(policy, scores=np.array([NAN, NAN, 0.0, 0.0, 0.0, 0.0])), "own": reference})
    assert kept["policy"].parts["right"][2:].tolist() == [0.5, 0.0]
    assert kept["own"].parts["right"].tolist() == [0.0, 0.0]


def test_a_prompt_without_any_score_is_left_out_with_all_its_responses() -> None:
    samples = SAMPLES.take([0, 0, 1, 1, 2, 2])
    several = Judged(samples, np.array([1.0, np.nan, np.nan, np.nan, 2.0, 4.0]), 0.0, per_prompt=2)
    kept, places = complete({"several": several, "line": Judged(SAMPLES, np.array([5.0, 6.0, 7.0]), 0.0)})
    assert (places, kept["several"].means.tolist(), kept["line"].means.tolist()) == ([0, 2], [1.0, 3.0], [5.0, 7.0])
    assert kept["several"].samples.prompts == ["p", "p", "r", "r"]


def test_kl_with_its_interval_and_a_line_are_in_the_row() -> None:
    policy = Judged(SAMPLES, np.array([2.0, 1.0, 3.0]), kl=Interval(1.5, 1.0, 2.0), line=True)
    row = measure(policy, Judged(SAMPLES, np.zeros(3), kl=0.0), None, [])
    assert (row["kl"], row["kl_interval"], row["line"]) == (1.5, {"mean": 1.5, "low": 1.0, "high": 2.0}, True)


def test_kl_of_few_responses_is_k3_by_hand() -> None:
    log_ratio = np.log([[2.0, 1.0], [0.5, 1.0]])  # r - 1 - log r with r = pi_ref/pi: 1/2, 1 and 2
    assert controlled(log_ratio) == pytest.approx([0.5 - 1 + np.log(2), 2 - 1 - np.log(2)])


def test_kl_is_unbiased_and_varies_least() -> None:
    pi, ref = np.array([0.7, 0.3]), np.array([0.2, 0.8])
    drawn = np.random.default_rng(0).choice(2, size=(4000, 1), p=pi)
    ratio = np.log(pi / ref)[drawn]
    found, k1, k3 = controlled(ratio), ratio.sum(1), (np.expm1(-ratio) + ratio).sum(1)
    assert found.mean() == pytest.approx((pi * np.log(pi / ref)).sum(), abs=0.01)
    assert found.var() < 1e-3 < min(k1.var(), k3.var())  # of two outcomes, the control explains all


def test_the_coefficient_of_the_control_is_between_those_of_k1_and_k3() -> None:
    """Of 0 and 3 it would be 3 / (1 - e^-3) = 3.2, and of 0 and 2 - 1.5 0.5 / (2 - e^-2 - e^1.5) = -0.2."""
    far, odd = np.array([[0.0], [3.0]] * 10), np.array([[0.0, 0.0], [2.0, -1.5]] * 10)
    assert controlled(far) == pytest.approx([0.0, 3 + np.exp(-3) - 1] * 10)
    assert controlled(odd) == pytest.approx([0.0, 0.5] * 10)


def test_kl_where_the_reference_gives_far_more_is_not_infinite() -> None:
    assert controlled(np.full((30, 1), -800.0)).tolist() == [-800.0] * 30


def test_the_reference_is_not_compared_with_itself() -> None:
    reference = Judged(SAMPLES, np.array([1.0, 2.0, 3.0]), kl=0.0)
    row = measure(reference, reference, ceiling=None, worths=[])
    assert row.keys().isdisjoint({"gain", "win_rate", "win_p_value"})
    assert row["normalised"] is None
    assert (row["dimensions"], row["out_of_distribution"]) == ({}, None)


def test_a_gain_is_paired_prompt_by_prompt() -> None:
    base = np.random.default_rng(0).normal(0, 10, 3)
    row = measure(Judged(SAMPLES, base + 0.5, 0.0), Judged(SAMPLES, base, 0.0), None, [])
    assert (row["gain"]["low"], row["gain"]["high"]) == pytest.approx((0.5, 0.5))
