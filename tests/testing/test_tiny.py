"""The tiny base and pairs that plugin authors are given: small, ragged, learnable, and the same every time."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "mistral", "gemma2", "opt", "mamba"])
def test_a_tiny_base_is_tiny_and_loads(tmp_path: Path, architecture: str) -> None:
    base = tiny_base(tmp_path, architecture)
    model = AutoModelForCausalLM.from_pretrained(base.path)
    assert 10_000 < model.num_parameters() < 50_000
    assert model.config.num_hidden_layers == 2
    assert model.config.model_type == architecture


def test_the_same_arguments_write_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        monkeypatch.setattr("rlhf_plugins.testing.tiny._made", {})
        tiny_base(tmp_path / folder, seed=seed)
    first, second, other = ((tmp_path / f / "model.safetensors").read_bytes() for f in "abc")
    assert first == second
    assert first != other


@pytest.mark.parametrize(("pad_is_eos", "pad"), [(False, "<pad>"), (True, "<eos>")])
def test_the_tokenizer_knows_every_word_of_the_pairs(tmp_path: Path, pad_is_eos: bool, pad: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base(tmp_path, pad_is_eos=pad_is_eos).path)
    texts = [text for pair in tiny_pairs(50) for text in (pair.prompt, *pair.responses)]
    assert (tokenizer.pad_token, tokenizer.eos_token) == (pad, "<eos>")
    assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(texts)["input_ids"])
    assert tokenizer("how ant<eos>")["input_ids"] == [15, 3, 1]


def test_pairs_are_ragged_and_repeatable() -> None:
    pairs = tiny_pairs(100, seed=4)
    assert pairs == tiny_pairs(100, seed=4)
    assert pairs != tiny_pairs(100, seed=5)
    assert {len(pair.prompt.split()) for pair in pairs} == set(range(1, 8))
    assert {len(text.split()) for pair in pairs for text in pair.responses} == set(range(1, 9))


def test_the_first_response_is_usually_the_better_one() -> None:
    better = [pair.gold[0] > pair.gold[1] for pair in tiny_pairs(200) if pair.gold]
    assert 0.8 < sum(better) / 200 < 1


def test_a_run_has_everything_that_a_stage_reads(tmp_path: Path) -> None:
    run = tiny_run(tiny_base(tmp_path / "base"), tmp_path / "run", tiny_pairs(6))
    assert run.folder.is_dir()
    assert (len(run.data.train), len(run.data.test), len(run.data.prompts["test"])) == (6, 3, 3)
    assert run.open("pooling", run.spec(run.open("pooling", "mean"))) == run.open("pooling", "mean")
    assert run.data.gold is not None
    assert run.data.gold("how", "ant gas")["total"] == 0.5
