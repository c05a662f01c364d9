"""Prompts and responses as token ids: what belongs to which, where they end, and what a model cannot take."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing

from rlhf_plugins.contract.rows import Group, Text
from rlhf_plugins.data.batches.ranked import encodable
from rlhf_plugins.data.batches.tokens import RowEncoder, encode, encode_prompt, samples_of
from rlhf_plugins.data.turns import as_text
from rlhf_plugins.engine.weights.loading import load_row_encoder, load_tokenizer
from rlhf_plugins.errors import DataError
from rlhf_plugins.testing import tiny_base, tiny_encoder

ASKED, ANSWERED = [{"role": "user", "content": "who is"}], [{"role": "assistant", "content": "ant bee"}]
TEMPLATE = "{% for m in messages %}{{ m.content + ' <eos> the ' }}{% endfor %}"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> RowEncoder:
    return load_row_encoder(tiny_base(tmp_path_factory.mktemp("base"), max_position_embeddings=6))


def words(encoder: RowEncoder, prompt: Text, response: Text) -> list[str]:
    return [" ".join(encoder.tokenizer.convert_ids_to_tokens(ids)) for ids in encoder.encode(prompt, response)]


@pytest.mark.parametrize("response", [" ant", " ant<eos>"])
def test_a_response_ends_with_eos_once(encoder: RowEncoder, response: str) -> None:
    assert words(encoder, "who is", response) == ["who is", "ant <eos>"]


def test_a_prompt_does_not_end_with_the_eos_that_a_tokenizer_adds(tmp_path: Path) -> None:
    own = load_row_encoder(tiny_base(tmp_path))
    end = ("<eos>", own.tokenizer.eos_token_id)
    own.tokenizer._tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[end])
    assert own.encode_start("who is") == own.encode("who is", " ant")[0]
    assert own.encode_start("who is<eos>")[-1] == end[1]


def test_a_merged_token_belongs_to_the_response(encoder: RowEncoder) -> None:
    assert words(encoder, "who i", "s ant") == ["who", "is ant <eos>"]


def test_what_a_template_writes_after_eos_is_left_out(encoder: RowEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder.tokenizer, "chat_template", TEMPLATE)
    assert words(encoder, ASKED, ANSWERED) == ["who is <eos> the", "ant bee <eos>"]
    assert encoder.tokenizer.decode(encode_prompt(encoder.tokenizer, ASKED)) == "who is <eos> the"


def test_an_encoder_marks_both_texts_of_a_pair(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_encoder(tmp_path))
    prompt, response = encode(tokenizer, "who is", "ant bee")
    marked = tokenizer.convert_ids_to_tokens(prompt), tokenizer.convert_ids_to_tokens(response)
    assert marked == (["<cls>", "who", "is", "<sep>"], ["ant", "bee", "<sep>"])
    assert encode(tokenizer, ASKED, ANSWERED) == (prompt, response)


@pytest.mark.parametrize(
    ("prompt", "response", "reason"),
    [
        ("", "ant", "its prompt has no token"),
        ("who ", "ant bee cat dog elk", "has 7 tokens, and the model takes 6"),
        (ASKED, ANSWERED, "its messages cannot be tokenized: .*chat"),
    ],
)
def test_a_response_that_the_model_cannot_take_is_named(
    encoder: RowEncoder, prompt: Text, response: Text, reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        samples_of([Group(prompt, (response,))], encoder)


def test_responses_that_the_model_cannot_take_are_counted_by_reason(encoder: RowEncoder) -> None:
    groups = [Group("who ", ("ant", "ant bee cat dog elk", "bee"), (0, 1, 2)), Group("", ("ant",)), Group(ASKED, ())]
    kept, left_out = encodable(groups, encoder)
    assert kept == [Group("who ", ("ant", "bee"), (0, 2))]
    assert left_out == {"response longer than the model takes": 1, "prompt or response without a token": 1}


def test_one_message_is_its_content_and_several_are_lines() -> None:
    assert as_text(ASKED) == "who is"
    assert as_text([*ASKED, *ANSWERED]) == "user: who is\nassistant: ant bee"


def test_a_call_of_a_tool_and_the_parts_of_a_content_are_read() -> None:
    calls = {"role": "assistant", "content": None, "tool_calls": [{"name": "find"}]}
    parts = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what"}, {"text": " is it"}]}
    assert as_text([parts, calls]) == 'user: [image]what is it\nassistant: [{"name": "find"}]'
