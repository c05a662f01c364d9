"""The end of a response is one thing in training, scoring, sampling and export, whatever the chat template."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from templates import ENDS, TEMPLATES, chat_base

from rlhf_plugins.data.batches.tokens import encode, encode_prompt, response_ends, template_to_end, turn_end
from rlhf_plugins.engine.sampling import end_tokens
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer
from rlhf_plugins.testing import tiny_base

ASKED, ANSWERED = [{"role": "user", "content": "who is"}], [{"role": "assistant", "content": "ant bee"}]


@pytest.mark.parametrize("style", TEMPLATES)
def test_a_response_ends_with_the_end_of_its_turn_and_nothing_follows(tmp_path: Path, style: str) -> None:
    tokenizer = load_tokenizer(chat_base(tmp_path, style))
    prompt, response = encode(tokenizer, ASKED, ANSWERED)
    assert tokenizer.convert_ids_to_tokens(response[-3:]) == ["ant", "bee", ENDS.get(style, "<eos>")]
    assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer)) == ENDS.get(style, "<eos>")
    assert prompt == encode_prompt(tokenizer, ASKED)[: len(prompt)]


@pytest.mark.parametrize("style", TEMPLATES)
def test_sampling_ends_where_training_ends(tmp_path: Path, style: str) -> None:
    base = chat_base(tmp_path, style)
    model, tokenizer = load_causal(base), load_tokenizer(base)
    assert encode(tokenizer, ASKED, ANSWERED)[1][-1] in end_tokens(model, tokenizer)


@pytest.mark.parametrize("style", TEMPLATES)
def test_a_template_to_the_end_renders_what_training_reads(tmp_path: Path, style: str) -> None:
    tokenizer = load_tokenizer(chat_base(tmp_path, style))
    whole, asked = sum(encode(tokenizer, ASKED, ANSWERED), []), encode_prompt(tokenizer, ASKED)
    tokenizer.chat_template = template_to_end(tokenizer)
    assert tokenizer.apply_chat_template([*ASKED, *ANSWERED], return_dict=True)["input_ids"] == whole
    assert encode_prompt(tokenizer, ASKED) == asked


def test_ends_come_from_configurations_as_numbers_or_lists(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_base(tmp_path))
    found = response_ends(tokenizer, *(SimpleNamespace(eos_token_id=given) for given in ([7, 5], 9, None)))
    assert found == [tokenizer.eos_token_id, 5, 7, 9]


def test_an_ordinary_added_token_is_no_end(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }} lf <end>{% endfor %}"
    tokenizer = load_tokenizer(chat_base(tmp_path, "", template=template))
    tokenizer.add_tokens(["lf"])
    assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer)) == "<end>"


def test_a_template_to_the_end_writes_a_conversation_that_has_none(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(chat_base(tmp_path, "llama2"))
    tokenizer.chat_template = template_to_end(tokenizer).replace("eos_token }}", "eos_token }}", 1)
    whole = tokenizer.apply_chat_template(ASKED, tokenize=False)
    assert "who is" in whole


def test_a_text_with_an_end_in_its_middle_is_not_cut(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(chat_base(tmp_path, "chatml"))
    ids = encode(tokenizer, "who ", "ant <end> bee")[1]
    assert tokenizer.convert_ids_to_tokens(ids) == ["ant", "<end>", "bee", "<eos>"]


def test_a_template_without_an_end_gets_eos(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(chat_base(tmp_path, "", template="{% for m in messages %}{{ m.content }} {% endfor %}"))
    assert tokenizer.convert_ids_to_tokens(encode(tokenizer, ASKED, ANSWERED)[1]) == ["ant", "bee", "<eos>"]


@pytest.mark.parametrize("response", [" ant<end>", " ant<end>\n", " ant"])
def test_a_rendered_response_keeps_its_own_end(tmp_path: Path, response: str) -> None:
    tokenizer = load_tokenizer(chat_base(tmp_path, "chatml"))
    ids = encode(tokenizer, "<turn>user who <end>\n<turn>assistant ", response)[1]
    assert tokenizer.convert_ids_to_tokens(ids) == ["ant", "<end>" if "<end>" in response else "<eos>"]


def test_a_rendered_prompt_has_bos_once(tmp_path: Path) -> None:
    from tokenizers import processors

    tokenizer = load_tokenizer(chat_base(tmp_path, "llama2"))
    bos = ("<bos>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[bos])
    assert tokenizer.convert_ids_to_tokens(encode_prompt(tokenizer, "<bos> who")) == ["<bos>", "who"]
    assert tokenizer.convert_ids_to_tokens(encode(tokenizer, "<bos> who ", "ant")[0]) == ["<bos>", "who"]
