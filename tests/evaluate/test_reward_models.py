"""A reward model's row of the report, from pairs whose scores are chosen by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from time import sleep

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from rlhf_plugins.contract.interfaces import Metric
from rlhf_plugins.contract.records import Prediction, ScoredPairs
from rlhf_plugins.contract.rows import Comparison, Group, Samples
from rlhf_plugins.errors import RunError
from rlhf_plugins.evaluate.reward_models import latency, measure, reliability, score_pairs
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.report.schema import RewardModelReport

CHAT = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
CHAT += "{% if add_generation_prompt %}assistant {% endif %}"
GROUPS = [Group("p q ", ("a", "b c", "d"), (1, 0, 1), gold=(0.0, 3.0, 1.0)), Group("q", ("a", "b"), (0, 0))]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; [end] ends a text."""
    words = ["[unk]", "[end]", "p", "q", "a", "b", "c", "d", "user", "assistant"]
    whole = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[unk]"))
    whole.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=whole, unk_token="[unk]", eos_token="[end]", pad_token="[end]", chat_template=CHAT
    )


def by_length(samples: Samples) -> list[float]:
    return [float(len(text)) for text in samples.responses]


def scored(gaps: Sequence[float]) -> ScoredPairs:
    one = np.ones(len(gaps), dtype=int)
    return ScoredPairs(np.array(gaps), np.zeros(len(gaps)), 2 * one, one)


def test_every_ordered_pair_is_scored_with_its_length_and_gold(tokenizer: PreTrainedTokenizerFast) -> None:
    found = score_pairs(by_length, GROUPS, tokenizer)
    assert (found.chosen.tolist(), found.rejected.tolist()) == ([3.0, 3.0], [1.0, 1.0])  # "b c" above "a" and "d"
    assert (found.chosen_length.tolist(), found.rejected_length.tolist()) == ([3, 3], [2, 2])  # words and the end
    assert found.chosen_gold is not None
    assert found.rejected_gold is not None
    assert (found.chosen_gold.tolist(), found.rejected_gold.tolist()) == ([3.0, 3.0], [0.0, 1.0])


def test_the_reward_sees_the_tokens_that_training_saw(tokenizer: PreTrainedTokenizerFast) -> None:
    def check(samples: Samples) -> list[float]:
        assert samples.prompts == ["p q "] * 3
        assert samples.responses == ["b c", "a", "d"]  # each once
        assert samples.prompt_ids == [[2, 3]] * 3
        assert samples.response_ids == [[5, 6, 1], [4, 1], [7, 1]]
        return by_length(samples)

    score_pairs(check, GROUPS, tokenizer)


def test_conversations_are_scored_through_the_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = [{"role": "user", "content": "p"}]
    said = tuple([{"role": "assistant", "content": text}] for text in ("a b", "c"))
    found = score_pairs(by_length, [Group(prompt, said, (0, 1))], tokenizer)
    assert (found.chosen.tolist(), found.chosen_length.tolist()) == ([3.0], [3])  # words and the end
    assert found.chosen_gold is None


def test_a_reward_that_is_not_finite_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(RunError, match="1 of 3 reward model scores are not finite"):
        score_pairs(lambda samples: [1.0, float("nan"), 2.0], GROUPS, tokenizer)
    endless = Prediction(torch.zeros(3), variance=torch.tensor([1.0, float("inf"), 2.0]))
    with pytest.raises(RunError, match="1 of 3 predicted variances are not finite"):
        score_pairs(lambda samples: endless, GROUPS, tokenizer)
    silent = Prediction(torch.zeros(3), members=torch.full((3, 2), float("nan")))
    with pytest.raises(RunError, match="3 of 3 epistemic variances are not finite"):
        score_pairs(lambda samples: silent, GROUPS, tokenizer)


def test_dicts_are_measured_by_their_scores(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"score": float(place), "part": 9.0} for place in range(3)]
    plain, parts = (score_pairs(lambda _, given=given: given, GROUPS, tokenizer) for given in ([0.0, 1.0, 2.0], rows))
    assert parts.chosen.tolist() == plain.chosen.tolist()
    with pytest.raises(RunError, match="the reward gave a dict with the keys 'part' for the response '', without"):
        score_pairs(lambda _: [{"part": 1.0}] * 3, GROUPS, tokenizer)


def test_a_reward_that_abstains_is_not_measured_on_made_up_numbers(tokenizer: PreTrainedTokenizerFast) -> None:
    silent = Prediction(torch.tensor([1.0, 0.0, 2.0]), abstained=torch.tensor([False, True, False]))
    with pytest.raises(RunError, match="the reward gave no number to 1 of 3 held-out responses"):
        score_pairs(lambda samples: silent, GROUPS, tokenizer)


@pytest.mark.parametrize("n", [0, 2, 4])
def test_a_score_too_few_or_too_many_is_refused(tokenizer: PreTrainedTokenizerFast, n: int) -> None:
    with pytest.raises(RunError, match=f"3 responses were given {n} reward model scores"):
        score_pairs(lambda samples: [1.0] * n, GROUPS, tokenizer)


@pytest.mark.parametrize("groups", [[], [Group("q", ("a", "b"), (0, 0))], [Group("q", ("a", "b"))]])
def test_without_an_ordered_pair_there_is_nothing_to_measure(
    tokenizer: PreTrainedTokenizerFast, groups: list[Group]
) -> None:
    with pytest.raises(RunError, match="no held-out pair is strictly ordered"):
        score_pairs(by_length, groups, tokenizer)


def test_comparisons_are_taken_as_people_made_them(tokenizer: PreTrainedTokenizerFast) -> None:
    said = (Comparison(2, 0), Comparison(0, 1, tied=True), Comparison(1, 2))  # a circle, which no ranks could hold
    found = score_pairs(by_length, [Group("q ", ("a", "a b", "a b c"), compared=said)], tokenizer)
    assert (found.chosen.tolist(), found.rejected.tolist()) == ([5.0, 3.0], [1.0, 5.0])


def test_prompts_topics_annotators_and_ratings_of_pairs(tokenizer: PreTrainedTokenizerFast) -> None:
    rated = {"good": (4.0, None, None), "short": (2.0, 5.0, None)}
    groups = [
        Group("p ", ("a", "b", "c"), (0, 1, 2), ratings=rated, topic="t"),
        Group("q ", ("a", "b"), compared=(Comparison(0, 1, annotator="ann"),)),
        Group("p ", ("d", "a"), (0, 1)),
    ]
    found = score_pairs(by_length, groups, tokenizer)
    assert found.prompt.tolist() == [0, 0, 0, 1, 0]  # one prompt, though in two groups
    assert found.topic.tolist() == ["t", "t", "t", "", ""]
    assert found.annotator.tolist() == ["", "", "", "ann", ""]
    np.testing.assert_equal(found.chosen_rating, [3.0, 3.0, 5.0, np.nan, np.nan])
    np.testing.assert_equal(found.rejected_rating, [5.0, np.nan, np.nan, np.nan, np.nan])


def test_what_nobody_knows_is_none(tokenizer: PreTrainedTokenizerFast) -> None:
    found = score_pairs(by_length, [Group("p ", ("a", "b"), (0, 1))], tokenizer)
    known = {name for name, value in vars(found).items() if value is not None}
    assert known == {"chosen", "rejected", "chosen_length", "rejected_length", "prompt", "again"}


def test_a_prediction_brings_its_variance(tokenizer: PreTrainedTokenizerFast) -> None:
    said = Prediction(torch.tensor([3.0, 1.0, 2.0]), variance=torch.tensor([0.5, 0.25, 1.0]))
    found = score_pairs(lambda samples: said, GROUPS, tokenizer)
    assert (found.chosen.tolist(), found.rejected.tolist()) == ([3.0, 3.0], [1.0, 2.0])
    assert (found.chosen_variance.tolist(), found.rejected_variance.tolist()) == ([0.5, 0.5], [0.25, 1.0])
    assert (found.chosen_epistemic, found.rejected_epistemic) == (None, None)


def test_members_bring_the_epistemic_variance(tokenizer: PreTrainedTokenizerFast) -> None:
    members = torch.tensor([[1.0, 5.0, 3.0], [1.0, 1.0, 1.0], [2.0, 4.0, float("nan")]])  # the last was not asked
    found = score_pairs(lambda samples: Prediction(torch.tensor([3.0, 1.0, 3.0]), members=members), GROUPS, tokenizer)
    assert found.chosen_epistemic.tolist() == pytest.approx([8 / 3, 8 / 3])  # (4 + 4 + 0) / 3
    assert found.rejected_epistemic.tolist() == [0.0, 1.0]  # (1 + 1) / 2
    assert (found.chosen_variance, found.rejected_variance) == (None, None)


@pytest.mark.parametrize("messages", [False, True])
def test_scored_again_every_response_is_rewritten_once(tokenizer: PreTrainedTokenizerFast, messages: bool) -> None:
    group = GROUPS[0]
    if messages:
        said = tuple([{"role": "assistant", "content": text}] for text in group.responses)
        group = replace(group, prompt=[{"role": "user", "content": "p"}], responses=said)
    pairs = score_pairs(by_length, [group], tokenizer)
    again = pairs.again(lambda text, rng: f"{text} {'a' * rng.integers(5, 6)}")
    assert (again.chosen.tolist(), again.rejected.tolist()) == ([9.0, 9.0], [7.0, 7.0])
    assert again.chosen_length.tolist() == [length + 1 for length in pairs.chosen_length]
    assert (again.chosen_gold.tolist(), again.again) == (pairs.chosen_gold.tolist(), None)


def test_latency_is_of_one_pair(tokenizer: PreTrainedTokenizerFast) -> None:
    asked: list[int] = []

    def slow(samples: Samples) -> list[float]:
        asked.append(len(samples.responses))
        sleep(0.02)
        return by_length(samples)

    assert 0.02 <= latency(slow, GROUPS, tokenizer) < 0.06
    assert asked == [2, 2]


class Fixed(Metric):
    """A metric that says what it was given to say."""

    def __init__(self, found: Mapping[str, float]) -> None:
        self.found = found

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        return self.found


def test_a_row_by_hand() -> None:
    accuracy = {"accuracy": 0.625, "accuracy_low": 0.5, "accuracy_high": 0.75, "accuracy_longer_response": 1.0}
    metrics = [Fixed(accuracy), Fixed({"calibration_ece": 0.1, "calibration_brier": 0.2}), Fixed({"mine": 3.0})]
    row = measure(scored([2.0, -1.0, 0.0, 1.0]), metrics)
    assert (row["accuracy"], row["n"], row["ece"], row["brier"]) == (0.625, 4, 0.1, 0.2)  # 2 right, half of a tie
    assert row["accuracy_interval"] == {"mean": 0.625, "low": 0.5, "high": 0.75}
    assert row["longer_response_accuracy"] == 1.0
    assert (row["auc"], row["spearman"], row["kendall"], row["length_correlation"]) == (None,) * 4
    assert row["metrics"] == {"mine": 3.0}
    assert RewardModelReport.model_validate(row).metrics == {"mine": 3.0}


def test_a_row_of_no_metric_still_says_its_accuracy() -> None:
    row = measure(scored([2.0, -1.0]), [])
    assert (row["accuracy"], row["accuracy_interval"], row["metrics"]) == (0.5, None, {})


def test_two_metrics_of_one_name_are_refused() -> None:
    with pytest.raises(RunError, match="two metrics both measure b, c; leave one out"):
        measure(scored([1.0]), [Fixed({"a": 1.0, "b": 1.0, "c": 1.0}), Fixed({"c": 2.0, "b": 2.0})])


def test_reliability_by_hand() -> None:
    # p of the preferred response: 0.9 right, 0.9 wrong, 0.6 right, and a fair coin
    bins = reliability(scored([log(9), -log(9), log(1.5), 0.0]), bins=2)
    low, high = bins
    assert (low["low"], low["high"], high["high"]) == (0.5, 0.75, 1.0)
    assert [low[key] for key in ("count", "confidence", "accuracy")] == pytest.approx([2, 0.55, 0.75])
    assert [high[key] for key in ("count", "confidence", "accuracy")] == pytest.approx([2, 0.9, 0.5])


def test_reliability_leaves_out_empty_bins_and_takes_certainty() -> None:
    (only,) = reliability(scored([1e4, -1e4]))
    assert (only["low"], only["high"], only["confidence"], only["accuracy"]) == (0.9, 1.0, 1.0, 0.5)


def test_the_largest_gap_of_the_diagram_is_the_calibration_error() -> None:
    pairs = scored(np.random.default_rng(0).normal(0.5, 1.5, 200).tolist())
    gaps = [abs(one["accuracy"] - one["confidence"]) for one in reliability(pairs)]
    weights = [one["count"] / 200 for one in reliability(pairs)]
    found = component("metric", "calibration")(pairs)
    assert found["calibration_mce"] == pytest.approx(max(gaps))
    assert found["calibration_ece"] == pytest.approx(sum(w * gap for w, gap in zip(weights, gaps, strict=True)))


def test_a_rewritten_response_is_cut_where_the_model_ends(tokenizer: PreTrainedTokenizerFast) -> None:
    seen: list[list[int]] = []

    def judge(samples: Samples) -> list[float]:
        seen.extend(samples.response_ids)
        return by_length(samples)

    pairs = score_pairs(judge, [Group("p q ", ("a", "b"), (0, 1))], tokenizer, longest=5)
    seen.clear()
    pairs.again(lambda text, rng: f"{text} c d a")
    assert [tokenizer.decode(ids) for ids in seen] == ["a c [end]", "b c [end]"]  # beside two of the prompt
