"""Where sentences end in token ids: at marks and lines, not inside numbers; and alike once exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import tensor
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

import rlhf_plugins.auto  # noqa: F401
from rlhf_plugins import RunError, export_reward_model
from rlhf_plugins.contract.run import Base
from rlhf_plugins.engine.sentences import SentenceEnds
from rlhf_plugins.engine.weights.loading import load_tokenizer, load_trunk
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.opening import open_reward
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.sandbox import POLICY
from rlhf_plugins.testing import tiny_base, tiny_run

BASE = Base(str(POLICY))
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
    found = ends(ids, torch.ones_like(ids, dtype=torch.bool))[0]
    assert [words.decode(ids[0][found == i]) for i in range(int(found.max()) + 1)] == sentences


def test_padding_ends_no_sentence_and_continues_none() -> None:
    ends = SentenceEnds(4)
    ends.marks[1:] = tensor([1, 2, 4])  # it ends one, it may, it continues one
    ids = tensor([[0, 1, 0, 2, 3, 0, 0], [0, 2, 0, 2, 3, 1, 1]])
    mask = tensor([[True] * 7, [True] * 4 + [False] * 3])
    assert ends(ids, mask).tolist() == [[0, 0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 2, 2, 2]]


def test_an_export_finds_the_same_sentences(tmp_path: Path) -> None:
    model = RewardModel(load_trunk(BASE), component("pooling", "multi_scale"), component("reward_head", "scalar"))
    assert model.sentences is not None
    model.sentences.read(load_tokenizer(BASE))
    model.own.pooling.sentence_query.data += torch.randn(model.own.pooling.sentence_query.shape)
    parts = {"pooling": {"use": "multi_scale"}, "head": {"use": "scalar"}}
    model.save(tmp_path / "model", {"base": {"path": BASE.path}, **parts})
    export_reward_model(tmp_path / "model", tmp_path / "out")
    exported = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    handle = open_reward(tmp_path / "model", component)
    samples = handle.encode(["how do i hurt a frog?"], ["i will not. ask me more! do you like birds?"])
    ids = tensor([[*samples.prompt_ids[0], *samples.response_ids[0]]])
    assert int(model.sentences(ids, torch.ones_like(ids).bool()).max()) >= 3
    with torch.no_grad():
        assert_close(exported(ids).logits[:, 0], handle(samples).reward, rtol=1e-4, atol=1e-5)


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    stage = component("stage", {"use": "reward_model", "pooling": "multi_scale", "trainer": {"max_steps": 1}})
    with pytest.raises(RunError, match="no token of the tokenizer ends a sentence; set `window`"):
        stage.run(tiny_run(base, tmp_path / "run"))
