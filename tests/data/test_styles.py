"""Conversations in the styles of eight families of templates: spans, TRL's own ids, one reward, nothing lost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow
from styles import STYLES, style_base, style_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import rlhf_plugins.auto  # noqa: F401
from rlhf_plugins import export_reward_model, load_reward_model
from rlhf_plugins.contract.rows import Group, Samples
from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.batches.branches import BranchBatch, Layout
from rlhf_plugins.data.batches.ranked import Collator, ranked_rows
from rlhf_plugins.data.batches.rendered import RESTARTED, fields_lost, obstacles
from rlhf_plugins.data.batches.tokens import RowEncoder, encode, encode_prompt
from rlhf_plugins.engine.sampling import sample
from rlhf_plugins.engine.weights.loading import load_causal, load_row_encoder, load_tokenizer, load_trunk
from rlhf_plugins.errors import DataError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.reward_model import RewardModel

Message = dict[str, Any]
ASKED, ANSWER = [{"role": "user", "content": "Why is the sky blue?"}], "Light scatters."
ANSWERED, OTHER = ([{"role": "assistant", "content": text}] for text in (ANSWER, "Paint."))
WORDS = st.text("abc de", min_size=1, max_size=8).filter(str.strip)


@pytest.mark.parametrize("name", STYLES)
def test_a_response_is_what_the_model_writes_behind_the_prompt_that_it_is_asked_with(name: str) -> None:
    style, tokenizer = STYLES[name], style_tokenizer(name)
    prompt, response = encode(tokenizer, ASKED, ANSWERED)
    assert tokenizer.decode(response) == style.before + ANSWER + style.end
    assert prompt == encode_prompt(tokenizer, ASKED)


def trls(tokenizer: Any) -> dict[str, Any]:
    """The row that stock TRL's DPOTrainer makes of the conversation."""
    rows = Dataset.from_list([{"prompt": ASKED, "chosen": ANSWERED, "rejected": OTHER}])
    args = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")
    trainer = SimpleNamespace(_tokenizer=tokenizer)
    return next(iter(trl.DPOTrainer._prepare_dataset(trainer, rows, tokenizer, args, "train")))


@pytest.mark.parametrize("name", STYLES)
def test_ids_are_trls_up_to_the_end_of_the_response(name: str) -> None:
    tokenizer = style_tokenizer(name)
    theirs, (prompt, response) = trls(tokenizer), encode(tokenizer, ASKED, ANSWERED)
    assert theirs["prompt_ids"] == prompt
    assert theirs["chosen_ids"][: len(response)] == response
    rest = theirs["chosen_ids"][len(response) :]  # behind the end, which no sampled response has
    assert tokenizer.decode(rest) == STYLES[name].after


def test_where_trl_is_not_right_it_learns_the_line_break_behind_the_end() -> None:
    tokenizer = style_tokenizer("chatml_on_a_base")
    theirs, ours = trls(tokenizer)["chosen_ids"], encode(tokenizer, ASKED, ANSWERED)[1]
    assert tokenizer.decode(theirs) == "Light scatters.<|im_end|>\n"  # a reward is read at the break, and a policy
    assert tokenizer.decode(ours) == "Light scatters.<|im_end|>"  # that stops at the end never writes it


@pytest.mark.parametrize("name", ["chatml_on_a_base", "r1", *slow(*sorted(STYLES.keys() - {"chatml_on_a_base", "r1"}))])
@torch.no_grad()
def test_the_reward_is_one_as_trained_scored_sampled_and_exported(name: str, tmp_path: Path) -> None:
    base = style_base(tmp_path / "base", name)
    expected = as_trained(save(base, tmp_path / "saved"), base)
    scorer = load_reward_model(tmp_path / "saved")
    assert scorer.predict(scorer.encode([ASKED], [ANSWERED])).reward.item() == pytest.approx(expected, abs=1e-4)
    assert scorer.predict(sampled(base)).reward.item() == pytest.approx(expected, abs=1e-4)
    for stock in (False, True):
        export_reward_model(tmp_path / "saved", out := tmp_path / f"stock_{stock}", stock=stock)
        assert as_others_read(out) == pytest.approx(expected, abs=1e-4)


def save(base: Base, folder: Path) -> RewardModel:
    torch.manual_seed(3)
    model = RewardModel(load_trunk(base), component("pooling", "last_token"), component("reward_head", "scalar"))
    torch.nn.init.normal_(model.head.weight)
    described = {"base": {k: v for k, v in asdict(base).items() if k != "trust_remote_code"}}
    model.save(folder, {**described, "pooling": {"use": "last_token"}, "head": {"use": "scalar"}})
    return model.eval()


def as_trained(model: RewardModel, base: Base) -> float:
    """The reward of the first response in the batch that the trainer makes."""
    encoder = load_row_encoder(base)
    rows = ranked_rows([Group(ASKED, (ANSWERED, OTHER), (0, 1))], encoder.encode, None, lambda group: True).dataset
    batch = Collator(encoder.tokenizer.pad_token_id, Layout.ROWS)(list(rows))
    return float(model(BranchBatch.from_inputs(batch)).reward[0])


def sampled(base: Base) -> Samples:
    """What is sampled from a policy that writes the answer, its end, and then anything."""
    policy, tokenizer = load_causal(base), load_tokenizer(base)
    written = torch.tensor([[*encode(tokenizer, ASKED, ANSWERED)[1], 7, 7]])
    policy.generate = lambda input_ids, **_: torch.cat([input_ids, written], 1)
    return sample(policy, tokenizer, [ASKED])


def as_others_read(out: Path) -> float:
    """The chat template, then the classifier."""
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer.apply_chat_template([*ASKED, *ANSWERED], return_dict=True, return_tensors="pt")["input_ids"]
    return float(AutoModelForSequenceClassification.from_pretrained(out).eval()(ids).logits)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[Message], list[Message]]:
    """A prompt of several turns and a response, with any of the fields that templates may write."""
    talk: list[Message] = [{"role": "system", "content": draw(WORDS)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        talk += [{"role": "user", "content": draw(WORDS)}, said(draw)]
    talk.append({"role": "user", "content": draw(WORDS)})
    if draw(st.booleans()):
        talk[0]["tools"] = [{"type": "function", "function": {"name": draw(WORDS)}}]
    return talk, [said(draw)]


def said(draw: st.DrawFn) -> Message:
    message: Message = {"role": "assistant", "content": draw(WORDS)}
    kind = draw(st.sampled_from(("plain", "called", "named", "thought", "cut")))
    more = {"called": {"tool_calls": [{"type": "function", "function": {"name": draw(WORDS), "arguments": {}}}]}}
    more |= {"named": {"name": draw(WORDS)}, "thought": {"reasoning_content": draw(WORDS)}}
    more |= {"cut": {"content": f"<think> {draw(WORDS)} </think> {draw(WORDS)}"}}
    return message | more.get(kind, {})


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=20, deadline=None)
@given(talk=conversations())
def test_no_visible_field_is_lost_without_a_word(name: str, talk: tuple[list[Message], list[Message]]) -> None:
    encoder = RowEncoder(style_tokenizer(name), None)
    try:
        written = "".join(encoder.tokenizer.decode(sum(encoder.encode(*talk), [])).split())
    except DataError:  # refused by name
        return
    if not obstacles([Group(talk[0], (talk[1],))], encoder):
        assert [text for text in visible([*talk[0], *talk[1]]) if "".join(text.split()) not in written] == []


def visible(talk: list[Message]) -> list[str]:
    calls = [call["function"]["name"] for message in talk for call in message.get("tool_calls", [])]
    tools = [tool["function"]["name"] for message in talk for tool in message.get("tools", [])]
    fields = [message[key] for message in talk for key in ("content", "name", "reasoning_content") if key in message]
    return [*calls, *tools, *fields]


def test_what_a_template_leaves_out_or_does_otherwise_is_said() -> None:
    named = [{**ASKED[0], "name": "ann"}]
    thought = [{**ANSWERED[0], "reasoning_content": "Rayleigh"}]
    gemma, qwen = (RowEncoder(style_tokenizer(name), None) for name in ("gemma", "qwen"))
    assert obstacles([Group(named, (ANSWERED,))], gemma) == {"name that the chat template does not write": 1}
    assert fields_lost([Group(named, (ANSWERED,)), Group(named), Group(ASKED, (ANSWERED,))], lambda: gemma) == {
        "name that the chat template does not write": 2
    }
    assert obstacles([Group(ASKED, (thought,))], qwen) == {}
    assert list(obstacles([Group(ASKED, (thought,))], gemma)) == [
        "reasoning_content that the chat template does not write"
    ]
    begun = style_tokenizer("r1")
    begun.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    assert obstacles([Group(ASKED, (ANSWERED,))], RowEncoder(begun, None)) == {RESTARTED: 1}
