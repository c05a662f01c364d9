"""The shipped policy and tokenizer: they load as any other, write the language, and are mediocre."""

from __future__ import annotations

import subprocess
import sys
from statistics import mean
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_plugins.engine.sampling import Decoding, sample
from rlhf_plugins.sandbox import MAX_TOTAL, POLICY, draft, gold, prompts
from rlhf_plugins.sandbox.language import read

PROMPTS = prompts("test")[:48]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(POLICY)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(POLICY).eval()


def test_importing_the_sandbox_imports_no_torch() -> None:
    code = "import sys, rlhf_plugins.sandbox; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_weights_are_small_safetensors() -> None:
    assert (POLICY / "model.safetensors").stat().st_size <= 4_000_000
    assert not [path for path in POLICY.iterdir() if path.suffix in {".bin", ".pt", ".pkl"}]


def test_special_tokens_are_distinct_and_end_a_text(tokenizer: Any) -> None:
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 3
    ids = tokenizer("what is the color of the fox?\nthe fox is red.<eos>")["input_ids"]
    assert (ids[-1], ids.count(tokenizer.eos_token_id), ids[0]) == (
        tokenizer.eos_token_id,
        1,
        tokenizer("what")["input_ids"][0],
    )


def test_every_text_of_the_world_survives_the_tokenizer(tokenizer: Any) -> None:
    texts = [text for (text,) in draft(prompts("train"), 1, seed=0)]
    ids = tokenizer(texts)["input_ids"]
    assert tokenizer.unk_token_id not in {token for row in ids for token in row}
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == texts


def test_prompt_and_response_tokenize_as_their_parts(tokenizer: Any) -> None:
    prompt, text = PROMPTS[0], draft(PROMPTS[:1], 1, seed=0)[0][0]
    assert tokenizer(prompt + text)["input_ids"] == tokenizer(prompt)["input_ids"] + tokenizer(text)["input_ids"]


def test_the_chat_template_is_the_plain_format(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": PROMPTS[0]}, {"role": "assistant", "content": "of course."}]
    asked = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    answered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert (asked, answered) == (PROMPTS[0], PROMPTS[0] + "of course.<eos>\n")
    assert tokenizer(answered)["input_ids"][-1] == tokenizer.eos_token_id


def test_sampling_is_repeatable_and_leaves_the_random_state_alone(model: Any, tokenizer: Any) -> None:
    state = torch.get_rng_state()
    first = sample(model, tokenizer, PROMPTS, 2, Decoding(seed=3))
    assert torch.equal(state, torch.get_rng_state())
    assert first == sample(model, tokenizer, PROMPTS, 2, Decoding(seed=3))
    assert first != sample(model, tokenizer, PROMPTS, 2, Decoding(seed=4))
    assert first.prompts == [prompt for prompt in PROMPTS for _ in range(2)]


def test_padding_changes_no_response(model: Any, tokenizer: Any) -> None:
    batched = sample(model, tokenizer, PROMPTS[:12], 1, Decoding(temperature=0))
    assert batched == sample(model, tokenizer, PROMPTS[:12], 1, Decoding(temperature=0), batch_size=1)
    assert all(gold(prompt, text).total > 0 for prompt, text in zip(PROMPTS, batched.responses, strict=False))


def test_an_untrained_adapter_samples_as_its_base(model: Any, tokenizer: Any) -> None:
    expected = sample(model, tokenizer, PROMPTS[:4])
    copy = AutoModelForCausalLM.from_pretrained(POLICY)
    adapted = get_peft_model(copy, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    assert sample(adapted, tokenizer, PROMPTS[:4]) == expected  # LoRA starts at zero


def test_sampling_keeps_the_mode_of_the_model(model: Any, tokenizer: Any) -> None:
    assert not model.training
    model.train()
    sample(model, tokenizer, PROMPTS[:1])
    assert model.training
    model.eval()


def test_the_policy_writes_the_language_and_is_mediocre(model: Any, tokenizer: Any) -> None:
    written = sample(model, tokenizer, PROMPTS, 16)
    sentences = [sentence for text in written.responses for sentence, _ in read(text)]
    assert mean(sentence is not None for sentence in sentences) > 0.95
    totals = [gold(str(p), text).total for p, text in zip(written.prompts, written.responses, strict=True)]
    assert 0.45 < mean(totals) / MAX_TOTAL < 0.60
    assert mean(max(totals[i : i + 16]) for i in range(0, len(totals), 16)) / MAX_TOTAL > 0.85
