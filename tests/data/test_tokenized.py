"""Rows of tokens for trainers of policies: what they hold, and what is left out as no model can tell it apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from templates import chat_base
from transformers import AutoTokenizer

from rlhf_plugins.contract.rows import Group
from rlhf_plugins.data.batches.lengths import EQUAL, NOTHING_LEFT
from rlhf_plugins.data.batches.ranked import ranked_rows
from rlhf_plugins.data.batches.tokenized import (
    NO_LABEL,
    prompts_with_room,
    tokenized_answers,
    tokenized_labels,
    tokenized_pairs,
)
from rlhf_plugins.engine.weights.loading import load_row_encoder
from rlhf_plugins.errors import DataError, RunError
from rlhf_plugins.testing import tiny_base

ASKED = [{"role": "user", "content": "who"}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


ALIKE = Group(ASKED, (said("ant </think> bee"), said("cat </think> bee")), (0, 1))
APART = Group(ASKED, (said("ant"), said("bee")), (0, 1))


def test_pairs_that_differ_in_a_thought_that_the_template_cuts_are_left_out_everywhere(tmp_path: Path) -> None:
    encoder = load_row_encoder(chat_base(tmp_path, "r1"))
    pairs = tokenized_pairs([ALIKE, APART], encoder)
    ranked = ranked_rows([ALIKE, APART], encoder.encode, None, lambda group: len(group.responses) > 1)
    assert (len(pairs.dataset), len(ranked.dataset)) == (1, 1)
    assert pairs.left_out[EQUAL] == ranked.left_out[EQUAL] == 1
    with pytest.raises(DataError, match=f"no row is left to learn from .1 x {EQUAL}"):
        tokenized_pairs([ALIKE], encoder)


def test_a_pair_as_tokens(tmp_path: Path) -> None:
    encoder = load_row_encoder(tiny_base(tmp_path))
    (row,) = tokenized_pairs([Group("who is ", ("ant bee", "cat"), (0, 1), margin=2.0)], encoder).dataset
    words = {name: encoder.tokenizer.decode(row[f"{name}_ids"]) for name in ("prompt", "chosen", "rejected")}
    assert words == {"prompt": "who is", "chosen": "ant bee <eos>", "rejected": "cat <eos>"}
    assert row["margin"] == 2.0


def test_groups_of_which_nothing_is_preferred_are_counted_once_each(tmp_path: Path) -> None:
    encoder = load_row_encoder(tiny_base(tmp_path))
    tie, ranking = Group("who ", ("ant", "bee"), (0, 0)), Group("who is ", ("ant", "bee", "cat"), (0, 0, 1))
    groups = [tie, ranking, tie, Group("the ", ("dog", "bee"), (0, 1)), Group("is ", ("ant", "bee"))]
    pairs, labelled = (tokenized(iter(groups), encoder) for tokenized in (tokenized_pairs, tokenized_labels))
    assert (len(pairs.dataset), pairs.left_out) == (3, {NOTHING_LEFT: 3})  # ant and bee over cat, dog over bee
    assert (len(labelled.dataset), labelled.left_out) == (5, {NO_LABEL: 3})
    with pytest.raises(DataError, match=f"2 x {NOTHING_LEFT}, 1 x {EQUAL}"):
        tokenized_pairs([tie, Group("who ", ("ant", "ant "), (0, 1)), tie], encoder)


def test_an_answer_as_tokens_is_marked_to_its_end(tmp_path: Path) -> None:
    encoder = load_row_encoder(chat_base(tmp_path, "chatml"))
    (row,) = tokenized_answers([Group(ASKED, (said("ant bee"),))], encoder).dataset
    marked = [token for token, mark in zip(row["input_ids"], row["completion_mask"], strict=True) if mark]
    assert encoder.tokenizer.convert_ids_to_tokens(marked) == ["ant", "bee", "<end>"]


def test_what_the_model_cannot_take_is_counted(tmp_path: Path) -> None:
    encoder = load_row_encoder(tiny_base(tmp_path, max_position_embeddings=4))
    groups = [Group("who ", (text,)) for text in ("ant", "ant bee cat dog")]
    found = tokenized_answers([*groups, Group("who ", ("bee",), label=False)], encoder)
    assert (len(found.dataset), found.left_out) == (
        1,
        {"response longer than the model takes": 1, "labelled undesirable": 1},
    )


def test_prompts_leave_room_for_a_response(tmp_path: Path) -> None:
    encoder = load_row_encoder(tiny_base(tmp_path, max_position_embeddings=4))
    kept, left_out = prompts_with_room([Group("who is"), Group("who is the"), Group(ASKED)], encoder, 2)
    assert kept == [Group("who is")]
    assert [reason.partition(":")[0] for reason in left_out] == [
        "prompt that leaves no room for 2 tokens of the 4 that the model takes",
        "prompt",
    ]
    with pytest.raises(DataError, match="no prompt is left: 1 x prompt that leaves no room for 4 tokens"):
        prompts_with_room([Group("who")], encoder, 4)


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        (["who", "who is the"], "; write a smaller new: the shortest of them leaves 3, the longest 1"),  # 4 - 1, 4 - 3
        (["who is", "the who"], "; write a smaller new: 2 fits all of them"),
        (["who", "who is the who"], "; write a smaller new: the shortest of them leaves 3"),
        (["who is the who"], ""),
    ],
)
def test_what_leaves_no_room_for_any_prompt_names_the_option(tmp_path: Path, asked: list[str], fits: str) -> None:
    encoder = load_row_encoder(tiny_base(tmp_path, max_position_embeddings=4))
    with pytest.raises(DataError) as refused:
        prompts_with_room([Group(each) for each in asked], encoder, 4, "new")
    assert str(refused.value).partition(" takes")[2] == fits


def test_a_token_beyond_the_embedding_is_named_before_training(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(base.path)
    with pytest.raises(RunError, match="its embedding has 21 rows, and its tokenizer has tokens beyond them: <new>"):
        load_row_encoder(base)
