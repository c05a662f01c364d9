"""`train_on: all`: which tokens of a conversation are learned, by hand, by TRL's own masks, and by the gradient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from hypothesis import given, settings
from hypothesis import strategies as st
from templates import TEMPLATES, chat_base

from rlhf_plugins import check_recipe
from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.contract.run import Base, Lengths
from rlhf_plugins.data.batches.tokenized import tokenized_answers
from rlhf_plugins.data.batches.tokens import RowEncoder
from rlhf_plugins.engine.weights.loading import load_causal, load_row_encoder
from rlhf_plugins.errors import RecipeError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_run
from rlhf_plugins.trainers.arguments import arguments
from rlhf_plugins.trainers.sft import SFTTrainer

from .conftest import OPTIONS

STABLE = [style for style in TEMPLATES if style != "r1"]  # which cuts the thoughts of earlier turns, and of the last
MARKED = TEMPLATES["chatml"].replace(
    "<turn>{{ m.role }} {{ m.content }}<end>\n",
    "<turn>{{ m.role }} {% if m.role == 'assistant' %}{% generation %}{{ m.content }}<end>{% endgeneration %}"
    "{% else %}{{ m.content }}<end>{% endif %}\n",
)


def talk(*texts: str) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]


def group(*texts: str) -> Group:
    turns = talk(*texts)
    return Group(turns[:-1], (turns[-1:],))


def as_pair(row: Group) -> tuple[Any, Any]:
    return row.prompt, row.responses[0]


def learned(encoder: RowEncoder, *groups: Group) -> list[list[str]]:
    """The tokens that each row learns, by their names."""
    rows, names = tokenized_answers(groups, encoder, every_turn=True).dataset, encoder.tokenizer.convert_ids_to_tokens
    pairs = [zip(names(row["input_ids"]), row["completion_mask"], strict=True) for row in rows]
    return [[token for token, mark in row if mark] for row in pairs]


THREE = group("who", "ant bee", "how", "cat", "the", "dog")


def test_every_turn_of_the_assistant_is_learned_to_its_end(tmp_path: Path) -> None:
    encoder = load_row_encoder(chat_base(tmp_path, "chatml"))
    assert learned(encoder, THREE) == [["ant", "bee", "<end>", "cat", "<end>", "dog", "<end>"]]
    (row,) = tokenized_answers([THREE], encoder).dataset
    assert sum(row["completion_mask"]) == 2  # dog <end>


@pytest.mark.parametrize("style", STABLE)
def test_no_token_of_a_user_is_learned_in_any_style(tmp_path: Path, style: str) -> None:
    end = {"llama3": "<eot>", "gemma": "<eot>", "chatml": "<end>", "qwen": "<end>"}.get(style, "<eos>")
    assert learned(load_row_encoder(chat_base(tmp_path, style)), THREE) == [["ant", "bee", end, "cat", end, "dog", end]]


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return chat_base(tmp_path_factory.mktemp("base"), "", template=MARKED)


@settings(max_examples=20, deadline=None)
@given(texts=st.lists(st.sampled_from(["ant", "bee cat", "the dog is", "how"]), min_size=2, max_size=8))
def test_the_mask_is_that_of_a_template_that_marks_what_is_generated(marked: Base, texts: list[str]) -> None:
    texts, encoder = texts[: len(texts) // 2 * 2], load_row_encoder(marked)
    (row,) = tokenized_answers([group(*texts)], encoder, every_turn=True).dataset
    options = {"return_dict": True, "return_assistant_tokens_mask": True}
    whole = encoder.tokenizer.apply_chat_template(talk(*texts), **options)
    size = len(row["input_ids"])  # without what the template writes behind the last end
    assert (row["input_ids"], row["completion_mask"]) == (whole["input_ids"][:size], whole["assistant_masks"][:size])
    assert not any(whole["assistant_masks"][size:])


def test_the_loss_is_that_of_trl_with_assistant_only_loss(marked: Base, tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [THREE, group("is", "the ant")]
    messages = Dataset.from_list([{"messages": [*row.prompt, *row.responses[0]]} for row in rows])
    encoder, losses = load_row_encoder(marked), []
    for cls, data, option in (
        (SFTTrainer, tokenized_answers(rows, encoder, every_turn=True).dataset, "completion_only_loss"),
        (trl.SFTTrainer, messages, "assistant_only_loss"),
    ):
        args = arguments(trl.SFTConfig, tmp_path / option, 0, {**OPTIONS, option: True})
        made = cls(load_causal(marked), args, train_dataset=data, processing_class=encoder.tokenizer)
        made.current_gradient_accumulation_steps = 1
        batch = made.data_collator(list(made.train_dataset))
        losses.append(made.compute_loss(made.model.eval(), batch).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_loss_by_hand(tmp_path: Path) -> None:
    base = chat_base(tmp_path, "chatml")
    (row,) = tokenized_answers([THREE], load_row_encoder(base), every_turn=True).dataset
    ids, model = torch.tensor(row["input_ids"]), load_causal(base).eval()
    scores = model(ids[None]).logits[0].log_softmax(-1)
    places = [place for place, mark in enumerate(row["completion_mask"]) if mark]
    assert len(places) == 7
    nats = -sum(scores[place - 1, ids[place]] for place in places)
    stage = component("stage", {"use": "sft", "train_on": "all", "trainer": OPTIONS | {"max_steps": 1}})
    run = replace(tiny_run(base, tmp_path / "run"), data=Data((THREE,), ()))
    result = stage.run(run)
    assert result.curves["loss"].points[0][1] == pytest.approx(float(nats) / 7, rel=1e-3)


CUTS = (  # the thoughts of earlier turns
    "{% for m in messages %}<turn>{{ m.role }} {{ m.content if loop.last else m.content.split('</think>')[-1] }}"
    "<end>\n{% endfor %}{% if add_generation_prompt %}<turn>assistant {% endif %}"
)


def test_a_turn_that_is_written_otherwise_later_is_learned_as_an_answer(tmp_path: Path) -> None:
    encoder = load_row_encoder(chat_base(tmp_path, "", template=CUTS))
    thought, plain = group("who", "ant </think> bee", "how", "cat"), group("who", "ant", "how", "cat")
    assert learned(encoder, plain, thought) == [
        ["ant", "<end>", "cat", "<end>"],
        ["ant", "</think>", "bee", "<end>"],
        ["cat", "<end>"],
    ]
    found = tokenized_answers([plain, thought], encoder, every_turn=True)
    (first, last) = (encoder.encode(talk("who"), talk("", "ant </think> bee")[1:]), encoder.encode(*as_pair(thought)))
    assert [row["input_ids"] for row in found.dataset][1:] == [[*first[0], *first[1]], [*last[0], *last[1]]]
    assert (found.apart, found.left_out) == (1, {})


def test_a_thought_that_only_the_last_turn_has_is_learned_in_each(tmp_path: Path) -> None:
    """As with templates that write an empty thought before the last answer alone."""
    first = "'<think> </think> ' + m.content if loop.last and m.role == 'assistant'"
    empty = CUTS.replace("m.content if loop.last", first)
    encoder = load_row_encoder(chat_base(tmp_path, "", template=empty))
    thinks = ["<think>", "</think>"]
    assert learned(encoder, THREE) == [
        [*thinks, "ant", "bee", "<end>"],
        [*thinks, "cat", "<end>"],
        [*thinks, "dog", "<end>"],
    ]


def test_a_turn_without_an_end_is_learned_with_one(tmp_path: Path) -> None:
    open_ended = "{% for m in messages %}<turn>{{ m.role }} {{ m.content }}{% endfor %}"
    encoder = load_row_encoder(chat_base(tmp_path, "", template=open_ended))
    assert [row[-1] for row in learned(encoder, THREE)] == ["<eos>"] * 3


def test_the_report_counts_the_rows_of_turns(tmp_path: Path) -> None:
    base = chat_base(tmp_path, "", template=CUTS)
    stage = component("stage", {"use": "sft", "train_on": "all", "trainer": OPTIONS | {"max_steps": 1}})
    data = Data((group("who", "ant </think> bee", "how", "cat"),), ())
    result = stage.run(replace(tiny_run(base, tmp_path / "run"), data=data))
    assert "1 turns are rows of their own: the chat template writes them otherwise" in result.report.notes[-1]


def test_a_greeting_that_answers_nothing_is_counted(tmp_path: Path) -> None:
    encoder = load_row_encoder(chat_base(tmp_path, "chatml"))
    turns = [{"role": "assistant", "content": "ant"}, *talk("how", "cat")]
    found = tokenized_answers([Group(turns[:-1], (turns[-1:],))], encoder, every_turn=True)
    ((reason, count),) = found.left_out.items()
    assert reason.startswith("earlier turn: messages cannot be tokenized: ")
    assert (count, sum(found.dataset[0]["completion_mask"])) == (1, 2)


def test_a_users_turn_inside_a_response_is_not_learned(tmp_path: Path) -> None:
    encoder, turns = load_row_encoder(chat_base(tmp_path, "chatml")), talk("who", "ant", "how", "cat")
    assert learned(encoder, Group(turns[:1], (turns[1:],))) == [["ant", "<end>", "cat", "<end>"]]


@pytest.mark.parametrize("most", [4, 9, 13])
def test_a_prompt_that_is_cut_keeps_the_marks_of_what_is_left(tmp_path: Path, most: int) -> None:
    encoder = load_row_encoder(chat_base(tmp_path, "chatml"))
    (whole,) = tokenized_answers([THREE], encoder, every_turn=True).dataset
    cut = replace(encoder, lengths=Lengths(max_prompt_length=most, truncation="cut"))
    (row,) = tokenized_answers([THREE], cut, every_turn=True).dataset
    assert row["completion_mask"] == whole["completion_mask"][-most - 2 :]
    assert row["input_ids"] == whole["input_ids"][-most - 2 :]


def test_trls_option_says_what_is_written_in_its_place(tmp_path: Path) -> None:
    stage = {"stage": "sft", "trainer": {"assistant_only_loss": True}}
    with pytest.raises(RecipeError, match="write `train_on: all` beside `stage: sft`"):
        check_recipe({"base": "sandbox", "data": "sandbox", "stages": [stage]})


def test_text_is_learned_as_before(tmp_path: Path) -> None:
    encoder, rows = load_row_encoder(chat_base(tmp_path, "chatml")), [Group("who ", ("ant",))]
    assert list(tokenized_answers(rows, encoder, every_turn=True).dataset) == list(
        tokenized_answers(rows, encoder).dataset
    )
