"""What opens, what is refused with a line, and what an adapter becomes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handed import saved_policy
from transformers import AutoModel, AutoModelForCausalLM, LlamaForSequenceClassification

from rlhf_plugins.contract.run import Adapter, Base, Weights
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer, load_trunk, with_adapter
from rlhf_plugins.engine.weights.starting import load_whole
from rlhf_plugins.errors import RunError
from rlhf_plugins.testing import tiny_base

IDS = torch.tensor([[3, 4, 5, 6]])


def test_padding_is_eos_where_a_tokenizer_has_none(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    tokenizer = load_tokenizer(base)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(base).pad_token == "<eos>"


def test_a_tokenizer_without_eos_is_refused(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    tokenizer = load_tokenizer(base)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(RunError, match="has no EOS token, so no response could end"):
        load_tokenizer(base)


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def with_half_of_the_weights(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def with_a_torn_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no_such_model"}')


@pytest.mark.parametrize("damage", [empty, without_weights, with_half_of_the_weights, with_a_torn_config])
@pytest.mark.parametrize("load", [load_causal, load_trunk])
def test_a_base_that_does_not_load_is_one_line(
    tmp_path: Path, damage: Callable[[Path], None], load: Callable[[Base], object]
) -> None:
    base = tiny_base(tmp_path / "base")
    damage(tmp_path / "base")
    with pytest.raises(RunError, match="does not load: ") as caught:
        load(base)
    assert "\n" not in str(caught.value)


def test_a_base_that_was_moved_is_said_to_be() -> None:
    with pytest.raises(RunError, match="base /no/base: there is no such folder; a base has to stay where it was"):
        load_tokenizer(Base("/no/base"))


def test_a_base_that_is_nowhere_names_the_nearest_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_base(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    message = r"base tinny: there is no such folder \(did you mean tiny\?\), and the hub gave no model: "
    with pytest.raises(RunError, match=message):
        load_tokenizer(Base("tinny"))


def test_a_base_without_its_head_is_refused_and_not_finished_at_random(tmp_path: Path) -> None:
    base = tiny_base(tmp_path, "llama", tie_word_embeddings=False)
    AutoModel.from_pretrained(base.path).save_pretrained(tmp_path)
    with pytest.raises(RunError, match="lacks weights, which would start at random: lm_head.weight"):
        load_causal(base)


@pytest.mark.parametrize(
    ("architecture", "modules"), [("llama", "all-linear"), ("gpt2", "all-linear"), ("gpt2", ["wte"])]
)
def test_a_merged_adapter_is_a_whole_model_with_the_same_logits(
    tmp_path: Path, architecture: str, modules: str | list[str]
) -> None:
    """Also where it is on embeddings that the output layer shares."""
    base = replace(tiny_base(tmp_path / "base", architecture), adapter=Adapter(r=4, target_modules=modules))
    model = with_adapter(load_causal(base), base.adapter, "CAUSAL_LM").eval()
    for name, weights in model.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:
            weights.data += 0.1
    model.save_pretrained(tmp_path / "policy")
    expected = model(IDS).logits
    torch.testing.assert_close(saved_policy(base, tmp_path / "policy")(IDS).logits, expected, rtol=0, atol=0)
    load_whole(Weights("policy", base, tmp_path / "policy")).save_pretrained(tmp_path / "whole")
    assert not list((tmp_path / "whole").glob("adapter_*"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(plain(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    assert (expected - load_causal(base)(IDS).logits).abs().max() > 0.1


@pytest.mark.parametrize("missing", ["adapter_model.safetensors", "of another size"])
def test_a_damaged_adapter_is_refused(tmp_path: Path, missing: str) -> None:
    base = replace(tiny_base(tmp_path / "base"), adapter=Adapter(r=4))
    with_adapter(load_causal(base), base.adapter, "CAUSAL_LM").save_pretrained(tmp_path / "policy")
    if missing == "of another size":
        base = tiny_base(tmp_path / "wider", hidden_size=64, head_dim=16)
    else:
        (tmp_path / "policy" / missing).unlink()
    with pytest.raises(RunError, match="its adapter does not load: "):
        saved_policy(base, tmp_path / "policy")


def test_a_base_that_is_a_reward_model_says_that_its_head_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = tiny_base(tmp_path)
    load_trunk(base)
    assert not caplog.records
    LlamaForSequenceClassification.from_pretrained(base.path, num_labels=1).save_pretrained(base.path)
    load_trunk(base)
    assert "is a classifier or a reward model, whose head (score.weight) is dropped" in caplog.text


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantized_model_learns_the_same_after_it_was_evaluated(tmp_path: Path, quantization: str) -> None:
    sizes = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}
    base = replace(tiny_base(tmp_path, **sizes), quantization=quantization, adapter=Adapter(r=4))
    model = with_adapter(load_causal(base), base.adapter, "CAUSAL_LM")
    found = []
    for _ in range(2):
        model.zero_grad()
        model.train()(IDS).logits.log_softmax(-1)[..., 3].sum().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        with torch.no_grad():
            model.eval()(IDS)
    for before, after in zip(*found, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_an_int8_base_logs_no_line_for_each_product(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sizes = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}
    model = load_causal(replace(tiny_base(tmp_path, **sizes), quantization="int8", adapter=Adapter(r=4)))
    caplog.clear()
    model(IDS)
    logging.getLogger("bitsandbytes.autograd._functions").warning("another line")
    assert [record.getMessage() for record in caplog.records] == ["another line"]


def test_no_test_sees_a_gpu_unless_it_is_asked_for() -> None:
    assert os.environ.get("RLHF_TEST_GPU") or not torch.cuda.is_available()
