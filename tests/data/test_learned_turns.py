"""Messages that say whether they are to be learned: what `sft` makes of them, and where they are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from templates import chat_base

from rlhf_plugins.contract.rows import Group
from rlhf_plugins.data.batches.tokenized import EARLIER, tokenized_answers
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.formats.output_forms import FORMS, lost
from rlhf_plugins.data.formats.preference import read_pairs
from rlhf_plugins.data.formats.supervised import read_answers
from rlhf_plugins.engine.weights.loading import load_row_encoder
from rlhf_plugins.errors import DataError

FLAGS = [{"train": True}, {"weight": 1}, {"loss": True}, {"weight": 1.0}]


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def bot(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def read(*talk: dict[str, Any], dropped: Dropped | None = None) -> list[Group]:
    found = read_answers([("f:1", {"messages": list(talk)})], Dropped() if dropped is None else dropped)
    return [group for _, group in found]


def off(flag: dict[str, Any]) -> dict[str, Any]:
    return {name: type(value)(False) for name, value in flag.items()}


@pytest.mark.parametrize("flag", FLAGS, ids=json.dumps)
def test_the_turns_that_are_to_be_learned_are(tmp_path: Path, flag: dict[str, Any]) -> None:
    encoder = load_row_encoder(chat_base(tmp_path, "chatml"))
    groups = read(user("who"), bot("ant", **off(flag)), user("how"), bot("bee"), user("is"), bot("cat", **flag))
    (row,) = tokenized_answers(groups, encoder, every_turn=True).dataset
    names = encoder.tokenizer.convert_ids_to_tokens(row["input_ids"])
    assert [name for name, mark in zip(names, row["completion_mask"], strict=True) if mark] == [
        "bee", "<end>", "cat", "<end>",
    ]  # fmt: skip
    (last,) = tokenized_answers(groups, encoder).dataset
    assert last["input_ids"] == row["input_ids"]
    assert sum(last["completion_mask"]) == 2


def test_an_earlier_turn_that_says_so_is_not_passed_over(tmp_path: Path) -> None:
    encoder = load_row_encoder(chat_base(tmp_path, "chatml"))
    groups = read(user("who"), bot("ant", weight=1), user("how"), bot("bee", weight=1))
    with pytest.raises(DataError, match=f"f:1: {EARLIER}"):
        tokenized_answers(groups, encoder)
    (row,) = tokenized_answers(groups, encoder, every_turn=True).dataset
    assert sum(row["completion_mask"]) == 4


def test_what_follows_the_last_turn_to_learn_is_left_out() -> None:
    dropped = Dropped()
    (group,) = read(user("who"), bot("ant"), user("how"), bot("bee", train=False), dropped=dropped)
    assert (group.prompt, group.responses) == ([user("who")], ([bot("ant")],))
    assert dropped.shapes == {"messages, the last turn that is to be learned as the answer": 1}


def test_a_row_without_a_turn_to_learn_is_counted() -> None:
    dropped = Dropped()
    assert not read(user("who"), bot("ant", weight=0), user("how"), bot("bee", weight=0), dropped=dropped)
    rows = [("f:2", {"prompt": [user("who")], "completion": [bot("ant", loss=False)]})]
    assert not list(read_answers(rows, dropped))
    assert dropped == {"no turn that is to be learned": 2}


REFUSED = {
    "half": ([user("who"), bot("ant", weight=0.5)], "messages has a message of weight 0.5; only 0, 1"),
    "a word": ([user("who"), bot("ant", train="no")], "messages has a message of train 'no'; only 0, 1"),
    "two words": ([user("who"), bot("ant", train=True, loss=False)], "whose train and loss say different things"),
    "a user": ([user("who", train=True), bot("ant")], "of the role 'user' to be learned .train., and only"),
}


@pytest.mark.parametrize(("talk", "message"), REFUSED.values(), ids=REFUSED)
def test_what_says_otherwise_is_refused(talk: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=f"f:1: .*{message}"):
        read(*talk)


def test_a_user_is_not_learned_also_where_it_says_so() -> None:
    assert read(user("who", train=False, weight=None), bot("ant")) == read(user("who"), bot("ant"))


def test_a_judged_response_is_not_unlearned() -> None:
    row = {"prompt": [user("who")], "chosen": [bot("ant", weight=0)], "rejected": [bot("bee")]}
    with pytest.raises(DataError, match="f:1: chosen has a message that is not to be learned"):
        list(read_pairs([("f:1", row)], Dropped()))


def test_prompts_that_differ_in_it_alone_are_held_out_together() -> None:
    both = [read(user("who"), bot("ant", train=train), user("how"), bot("bee"))[0] for train in (True, False)]
    assert both[0].prompt_words == both[1].prompt_words
    assert both[0].prompt != both[1].prompt


def test_it_is_written_and_read_again() -> None:
    groups = read(user("who"), bot("ant", weight=0), user("how"), bot("bee"))
    rows = FORMS["supervised"].write(groups)
    assert rows[0]["prompt"][1] == bot("ant", train=False)
    assert not lost(groups, FORMS["supervised"], rows)


def test_a_template_does_not_see_it(tmp_path: Path) -> None:
    shown = "{% for m in messages %}<turn>{{ m.keys() | join(' ') }}{{ m.content }}{{ eos_token }}{% endfor %}"
    encoder = load_row_encoder(chat_base(tmp_path, "", template=shown))
    plain = [user("who"), bot("ant"), user("how")]
    marked = [user("who"), bot("ant", train=False), user("how")]
    assert encoder.encode(marked, [bot("bee")]) == encoder.encode(plain, [bot("bee")])
