"""Where sentences end in token ids: marks, numbers, lines, Chinese, and the beginning of the response."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import tensor
from transformers import PreTrainedTokenizerFast

from rlhf_plugins import RunError
from rlhf_plugins.engine.sentences import SentenceEnds
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base, tiny_run

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)


def tokenizer() -> PreTrainedTokenizerFast:
    """One that has a token for each byte, as GPT-2's falls back to."""
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer, made.decoder = BYTES, decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", " Two!", " Three?"]),
        ("It costs 3.5 or .net. Yes", ["It costs 3.5 or .net.", " Yes"]),
        ("a line\nanother", ["a line\n", "another"]),
        ("no end", ["no end"]),
    ],
)
def test_sentences_end_at_marks_and_lines(text: str, sentences: list[str]) -> None:
    words, ends = tokenizer(), SentenceEnds(256)
    ends.read(words)
    ids = tensor([words(text)["input_ids"]])
    found = ends(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool))[0]
    assert [words.decode(ids[0][found == i]) for i in range(int(found.max()) + 1)] == sentences


def test_the_response_begins_a_sentence() -> None:
    ends = SentenceEnds(4)
    ends.marks[1] = 1
    ids = tensor([[0, 1, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 0, 0]])
    mask = tensor([[True] * 7, [True] * 5 + [False] * 2])
    response = tensor([[False] * 3 + [True] * 4, [False] * 2 + [True] * 3 + [False] * 2])
    assert ends(ids, mask, response).tolist() == [[0, 0, 1, 2, 2, 2, 3], [0, 0, 1, 1, 2, 2, 2]]


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    stage = component("stage", {"use": "reward_model", "pooling": "multi_scale", "trainer": {"max_steps": 1}})
    with pytest.raises(RunError, match="no token of the tokenizer ends a sentence; set `window`"):
        stage.run(tiny_run(base, tmp_path / "run"))
