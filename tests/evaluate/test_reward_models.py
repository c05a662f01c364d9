"""A reward model's row of the report, from pairs whose scores are chosen by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from rlhf_plugins.errors import RunError
from rlhf_plugins.evaluate.reward_models import measure, reliability, score_pairs
from rlhf_plugins.interfaces import Group, Samples, ScoredPairs

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
        assert samples.prompts == ["p q "] * 4
        assert samples.responses == ["b c", "a", "b c", "d"]
        assert samples.prompt_ids == [[2, 3]] * 4
        assert samples.response_ids == [[5, 6, 1], [4, 1], [5, 6, 1], [7, 1]]
        return by_length(samples)

    score_pairs(check, GROUPS, tokenizer)


def test_conversations_are_scored_through_the_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = [{"role": "user", "content": "p"}]
    said = tuple([{"role": "assistant", "content": text}] for text in ("a b", "c"))
    found = score_pairs(by_length, [Group(prompt, said, (0, 1))], tokenizer)
    assert (found.chosen.tolist(), found.chosen_length.tolist()) == ([3.0], [2])
    assert found.chosen_gold is None


def test_a_reward_that_is_not_finite_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(RunError, match="1 of 4 reward model scores are not finite"):
        score_pairs(lambda samples: [1.0, float("nan"), 2.0, 3.0], GROUPS, tokenizer)


class Fixed:
    """A metric that says what it was given to say."""

    def __init__(self, found: Mapping[str, float]) -> None:
        self.found = found

    def __call__(self, pairs: ScoredPairs) -> Mapping[str, float]:
        return self.found


def test_a_row_by_hand() -> None:
    metrics = [Fixed({"calibration_ece": 0.1, "calibration_brier": 0.2}), Fixed({"mine": 3.0})]
    row, found = measure(scored([2.0, -1.0, 0.0, 1.0]), metrics)
    assert (row["accuracy"], row["n"], row["ece"]) == (0.625, 4, 0.1)  # 2 right, half of a tie
    assert row["accuracy_interval"]["low"] <= 0.625 <= row["accuracy_interval"]["high"]
    assert row["longer_response_accuracy"] == 1.0  # every chosen one is longer
    assert (row["spearman"], row["kendall"], row["length_correlation"]) == (None, None, None)
    # chosen (2 -1 0 1) against rejected (0 0 0 0): 4 + 0 + 2 + 4 of 16 comparisons are won
    assert row["auc"] == pytest.approx(10 / 16)
    assert found == {"calibration_ece": 0.1, "calibration_brier": 0.2, "mine": 3.0}


def test_reliability_by_hand() -> None:
    # p of the preferred response: 0.9 right, 0.9 wrong, 0.6 right, and a fair coin
    bins = reliability(scored([log(9), -log(9), log(1.5), 0.0]), bins=2)
    low, high = bins
    assert (low["low"], low["high"], high["high"]) == (0.5, 0.75, 1.0)
    assert [low[key] for key in ("count", "confidence", "accuracy")] == pytest.approx([2, 0.55, 0.75])
    assert [high[key] for key in ("count", "confidence", "accuracy")] == pytest.approx([2, 0.9, 0.5])


def test_reliability_leaves_out_empty_bins_and_takes_certainty() -> None:
    (only,) = reliability(scored([1e4, -1e4]))
    assert (only["low"], only["high"], only["confidence"], only["accuracy"]) == (0.95, 1.0, 1.0, 0.5)
