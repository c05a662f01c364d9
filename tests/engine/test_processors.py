"""What becomes of logits before a token is drawn, by hand and beside transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from rlhf_plugins.contract.run import Base
from rlhf_plugins.contract.sampling import SamplingOptions
from rlhf_plugins.engine.processors import RepetitionPenalty, warped
from rlhf_plugins.engine.sampling import Decoding, sample
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer
from rlhf_plugins.testing import tiny_base

LOGITS = torch.tensor([[2.0, -1.0, 3.0, 0.5]])
PROMPTS = ["a b", "c", "how is the ant", "bee"]


def left(options: SamplingOptions, temperature: float = 1.0, logits: Tensor = LOGITS) -> list[int]:
    """The tokens that can be drawn."""
    scores = warped(torch.zeros(1, 0, dtype=torch.long), logits, temperature, options)
    return scores.isfinite()[0].nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("ids", "pad", "expected"),
    [
        ([0, 1, 0], None, [1.0, -2.0, 3.0, 0.5]),  # 2 / 2 and -1 * 2
        ([2, 2, 0, 2], None, [1.0, -1.0, 1.5, 0.5]),
        ([2, 2, 0, 2], 2, [1.0, -1.0, 1.5, 0.5]),  # an end behind the text counts
        ([2, 2, 0], 2, [1.0, -1.0, 3.0, 0.5]),  # padding before it does not
        ([9, 3], None, [2.0, -1.0, 3.0, 0.25]),  # a token without a logit
    ],
)
def test_a_repetition_penalty_by_hand(ids: list[int], pad: int | None, expected: list[float]) -> None:
    assert RepetitionPenalty(2.0, pad)(torch.tensor([ids]), LOGITS).tolist() == [expected]


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
    st.floats(0.25, 4),
    st.lists(st.floats(-9, 9), min_size=4, max_size=4),
)
def test_a_repetition_penalty_is_that_of_transformers(ids: list[int], penalty: float, logits: list[float]) -> None:
    text, scores = torch.tensor([ids]), torch.tensor([logits])
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(text, scores.clone())
    assert torch.equal(RepetitionPenalty(penalty)(text, scores), theirs)


def test_cuts_by_hand() -> None:
    """The probabilities are 0.25, 0.01, 0.68 and 0.06."""
    assert left({"top_k": 2}) == [0, 2]
    assert left({"min_p": 0.3}) == [0, 2]  # exp(2 - 3) = 0.37 of the likeliest, exp(0.5 - 3) = 0.08
    assert left({"min_p": 0.4}) == [2]
    assert left({"min_p": 0.4}, temperature=2.0) == [0, 2]  # exp(-0.5) = 0.61
    assert left({"top_k": 3, "top_p": 0.9, "min_p": 0.05}) == [0, 2]
    assert left({"top_p": 0.7}) == [0, 2]
    assert left({"top_p": 0.6}) == [2]
    assert left({}) == [0, 1, 2, 3]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_penalised_response_does_not_depend_on_the_padding_of_its_batch(tmp_path: Path, temperature: float) -> None:
    """Where padding is the end, a penalty on it would lengthen the responses to the shorter prompts."""
    base = tiny_base(tmp_path, pad_is_eos=True, seed=2)
    model, tokenizer = load_causal(Base(base.path)).eval(), load_tokenizer(base)
    decoding = Decoding(12, temperature, top_k=int(temperature), repetition_penalty=8.0)
    together = sample(model, tokenizer, PROMPTS, 1, decoding).response_ids
    assert together == sample(model, tokenizer, PROMPTS, 1, decoding, batch_size=1).response_ids
    assert together != sample(model, tokenizer, PROMPTS, 1, Decoding(12, 0.0)).response_ids
