"""Rows in the shapes that people have: where the prompt is, what the responses are, and what is refused by name."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from templates import chat_base

from rlhf_plugins.components.data_format import Comparisons, Preference
from rlhf_plugins.contract.rows import Group
from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.batches.tokens import encode
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.formats.comparisons import read_comparisons
from rlhf_plugins.data.formats.preference import read_pairs
from rlhf_plugins.data.rows import read_rows
from rlhf_plugins.data.sources import ComparisonColumns, PairColumns
from rlhf_plugins.engine.weights.loading import load_tokenizer
from rlhf_plugins.errors import DataError
from rlhf_plugins.recipe.assemble import component

Row = dict[str, Any]


def turn(role: str, content: Any, **more: Any) -> Row:
    return {"role": role, "content": content, **more}


ASKED, YES, NO = turn("user", "why"), turn("assistant", "yes"), turn("assistant", "no")
TALK = [ASKED, turn("assistant", "hm"), turn("user", "so")]
PORT = {"type": "function", "function": {"name": "tide", "arguments": {"port": "Arden"}}}
SPOKEN = "\n\nHuman: why\n\nAssistant:"
TOOL = {"type": "function", "function": {"name": "tide"}}


def pairs(*rows: Row) -> list[Group]:
    return [group for _, group in read_pairs([(f"f:{n}", row) for n, row in enumerate(rows, 1)], Dropped())]


MESSAGES: list[tuple[Row, list[Row]]] = [
    ({"prompt": "why", "chosen": [ASKED, YES], "rejected": [ASKED, NO]}, [ASKED]),
    ({"prompt": "so", "chosen": [*TALK, YES], "rejected": [*TALK, NO]}, TALK),
    ({"prompt": "why", "chosen": [YES], "rejected": [NO]}, [ASKED]),
    ({"prompt": [ASKED], "chosen": "yes", "rejected": "no"}, [ASKED]),
    ({"prompt": [ASKED], "chosen": [ASKED, YES], "rejected": [ASKED, NO]}, [ASKED]),
    ({"messages": [ASKED], "chosen": YES, "rejected": NO}, [ASKED]),
    ({"messages": [ASKED, YES], "rejected_response": "no"}, [ASKED]),
    ({"system": None, "prompt": "why", "chosen": "yes", "rejected": "no"}, [ASKED]),
    ({"system": "s", "question": "why", "chosen": "yes", "rejected": "no"}, [turn("system", "s"), ASKED]),
    (
        {
            "conversations": [{"from": "human", "value": "why"}],
            "chosen": {"from": "gpt", "value": "yes"},
            "rejected": {"from": "gpt", "value": "no"},
        },
        [ASKED],
    ),
]


@pytest.mark.parametrize(("row", "prompt"), MESSAGES)
def test_conversations_in_any_shape(row: Row, prompt: list[Row]) -> None:
    (group,) = pairs(row)
    assert (group.prompt, group.responses) == (prompt, ([YES], [NO]))


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"question": "why", "chosen": "A: yes", "rejected": "A: no"}, "why"),
        ({"instruction": "why", "input": "x", "chosen": "A: yes", "rejected": "A: no"}, "why\n\nx"),
        ({"prompt": "why", "chosen": "whyA: yes", "rejected": "whyA: no"}, "why"),
    ],
)
def test_texts_in_any_shape(row: Row, prompt: str) -> None:
    (group,) = pairs(row)
    assert (group.prompt, group.responses) == (prompt, ("A: yes", "A: no"))


def test_a_prompt_is_cut_off_the_responses_only_where_every_row_repeats_it() -> None:
    same = {"prompt": "Hi", "chosen": "Hi there", "rejected": "Hi you"}
    assert pairs(same, {"prompt": "q", "chosen": "a", "rejected": "b"})[0].responses == ("Hi there", "Hi you")


def test_a_transcript_is_cut_at_the_last_shared_turn_of_the_assistant() -> None:
    start = "\n\nHuman: why\n\nAssistant:"
    rows = [{"chosen": f"{start} I think {a}", "rejected": f"{start} I think {b}"} for a, b in ("ab", "cd")]
    assert {group.prompt for group in pairs(*rows)} == {start}
    assert pairs(*rows)[0].responses == (" I think a", " I think b")


def test_rows_that_say_nothing_do_not_decide_whether_the_prompt_is_repeated() -> None:
    said, empty = (
        {"prompt": "Hi", "chosen": "Hi a", "rejected": "Hi b"},
        {"prompt": "Hi", "chosen": "Hi", "rejected": ""},
    )
    alike = {"prompt": "Hi", "chosen": "x", "rejected": "x"}
    assert [group.responses for group in pairs(said, empty, alike)] == [(" a", " b")]


def test_a_question_beside_whole_transcripts_is_a_turn_of_them() -> None:
    (group,) = pairs({"question": "why", "chosen": f"{SPOKEN} yes", "rejected": f"{SPOKEN} no"})
    assert (group.prompt, group.responses) == (SPOKEN, (" yes", " no"))


@pytest.mark.parametrize("prompt", ["why", [ASKED]])
def test_equal_conversations_are_left_out_and_counted(prompt: Any) -> None:
    dropped, row = Dropped(), {"prompt": prompt, "chosen": [ASKED, YES], "rejected": [ASKED, YES]}
    assert not list(read_pairs([("f:1", row)], dropped))
    assert dropped == {"chosen equals rejected": 1}


@pytest.mark.parametrize(("right", "wrong"), [([], ["a"]), ([None, "a"], ["b"]), (["a"], [])])
def test_lists_with_nothing_in_them_are_left_out(right: list[Any], wrong: list[Any]) -> None:
    dropped = Dropped()
    assert not list(read_pairs([("f:1", {"prompt": "p", "chosen": right, "rejected": wrong})], dropped))
    assert dropped == {"empty prompt or response": 1}


def test_the_rows_of_a_set_with_a_system_column_are_all_messages() -> None:
    row = {"prompt": "why", "chosen": "yes", "rejected": "no"}
    assert [group.prompt for group in pairs({**row, "system": "s"}, row)] == [[turn("system", "s"), ASKED], [ASKED]]


def test_of_two_system_columns_the_one_with_a_text_counts() -> None:
    row = {"prompt": "why", "chosen": "yes", "rejected": "no", "system_prompt": "s"}
    (group,) = pairs({**row, "system": ""})
    assert group.prompt == [turn("system", "s"), ASKED]
    with pytest.raises(DataError, match="f:1: has a text in system and in system_prompt"):
        pairs({**row, "system": "t"})


def test_a_column_that_is_read_may_be_kept_or_be_the_topic() -> None:
    row = {"prompt": [ASKED], "chosen": [YES], "rejected": [NO], "system": "s"}
    read = read_pairs([("f:1", row)], Dropped(), PairColumns(topic="system", keep=["system"]))
    ((_, group),) = read
    assert (group.topic, group.columns) == ("s", {"system": "s"})


def test_a_renamed_column_is_the_one_that_is_named() -> None:
    row = {"messages": [ASKED, YES], "rejected_response": "no"}
    with pytest.raises(DataError, match="f:1: lacks the column 'good'"):
        list(read_pairs([("f:1", row)], Dropped(), PairColumns(chosen="good")))


def test_every_right_response_is_better_than_every_wrong_one() -> None:
    (group,) = pairs({"prompt": "p", "chosen": ["a"], "rejected": ["b", "c"]})
    assert group.responses == ("a", "b", "c")
    assert [(c.better, c.worse) for c in group.comparisons] == [(0, 1), (0, 2)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": [ASKED], "chosen": [YES], "rejected": [turn("user", "no")]}, "a turn of the role 'user'"),
        ({"prompt": [turn("Human", "why")], "chosen": [YES], "rejected": [NO]}, "the role 'Human'"),
        (
            {"prompt": [{"from": "function_call", "value": "{}"}], "chosen": [YES], "rejected": [NO]},
            "prompt has a 'function_call'; write it as an assistant's message with 'tool_calls'",
        ),
        ({"prompt": "other", "chosen": [ASKED, YES], "rejected": [ASKED, NO]}, "is no turn of the conversations"),
        ({"question": "q", "query": "r", "chosen": "a", "rejected": "b"}, "question and query could be the prompt"),
        (
            {"instruction": "q", "history": [["a", "b"]], "chosen": "yes", "rejected": "no"},
            "'history' beside 'instruction'; write earlier turns as messages",
        ),
        ({"prompt": "why", "tools": [TOOL], "chosen": "yes", "rejected": "no"}, "has tools, .* and is text"),
        (
            {"instruction": [ASKED], "input": "x", "chosen": [YES], "rejected": [NO]},
            "instruction is messages and input",
        ),
        ({"chosen": ["a"], "rejected": ["b"]}, "has no `prompt`"),
        ({"prompt": "p", "chosen": ["a"], "rejected": ["b"], "margin": 1}, "margin is of one pair, and chosen and rej"),
        ({"prompt": "p", "chosen": ["a"], "rejected": ["b"], "annotator": "ann"}, "annotator is of one pair"),
        (
            {"question": "so", "chosen": f"{SPOKEN} yes", "rejected": f"{SPOKEN} no"},
            "the prompt is no turn of the conv",
        ),
        ({"prompt": [turn("user", [{"type": "image"}])], "chosen": [YES], "rejected": [NO]}, "the type 'image'"),
        ({"prompt": json.dumps([ASKED]), "chosen": "yes", "rejected": "no"}, "prompt is a text that spells messages"),
        ({"question": repr([ASKED]), "chosen": "yes", "rejected": "no"}, "question is a text that spells messages"),
        ({"prompt": '["why"]', "chosen": '["yes"]', "rejected": '["no"]'}, "are texts that spell lists"),
    ],
)
def test_what_cannot_be_a_pair_is_refused_by_name(row: Row, message: str) -> None:
    with pytest.raises(DataError, match=f"f:1: .*{message}"):
        pairs(row)


def test_pairs_that_differ_in_a_tool_call_alone_are_pairs(tmp_path: Path) -> None:
    called, other = turn("assistant", None, tool_calls=[PORT]), turn("assistant", "", tool_calls=[TOOL])
    (group,) = pairs({"tools": [TOOL], "prompt": [ASKED], "chosen": [called], "rejected": [other]})
    tokenizer = load_tokenizer(chat_base(tmp_path, "qwen"))
    chosen, rejected = (tokenizer.decode(encode(tokenizer, group.prompt, r)[1]) for r in group.responses)
    assert chosen != rejected
    assert chosen.startswith("<call>")
    assert "<unk>" in tokenizer.decode(encode(tokenizer, group.prompt, group.responses[0])[0])  # the tools


def test_a_template_that_leaves_out_calls_or_tools_is_named(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(chat_base(tmp_path, "chatml"))
    with pytest.raises(DataError, match="its tool_calls are not written by the chat template"):
        encode(tokenizer, [ASKED], [turn("assistant", "", tool_calls=[PORT])])
    with pytest.raises(DataError, match="its tools are not written by the chat template"):
        encode(tokenizer, [{**ASKED, "tools": [TOOL]}], [YES])


BATTLES: list[Row] = [
    {"conversation_a": [ASKED, YES], "conversation_b": [ASKED, NO], "winner": "model_a"},
    {
        "prompt": ["why"],
        "response_a": ["yes"],
        "response_b": ["no"],
        **dict.fromkeys(("winner_model_b", "winner_tie"), 0),
        "winner_model_a": 1,
    },
    {"context": [ASKED], "response1": "yes", "response2": "no", "overall_preference": -2},
    {"prompt": [ASKED], "response_a": "yes", "response_b": "no", "label": "a"},
]


@pytest.mark.parametrize("row", BATTLES)
def test_battles_in_any_shape(row: Row) -> None:
    assert Comparisons.recognises(row)
    ((_, group),) = read_comparisons([("f:1", row)], Dropped())
    assert (group.prompt, group.responses, group.ranks) == ([ASKED], ([YES], [NO]), (0, 1))


def test_the_shapes_of_battles_are_noted() -> None:
    dropped, one = Dropped(), {**BATTLES[1], "prompt": "why", "response_a": "yes", "response_b": "no"}
    list(read_comparisons([(f"f:{n}", row) for n, row in enumerate((*BATTLES, one))], dropped))
    winners = "battles with winner_model_a, winner_model_b, winner_tie"
    assert dropped.shapes == {"battles of two conversations": 2, "battles of HelpSteer3": 1, winners: 1}


@pytest.mark.parametrize(("winner", "ranks"), [("response_1", (0, 1)), ("response_2", (1, 0)), ("model_2", (1, 0))])
def test_numbered_responses_may_win(winner: str, ranks: tuple[int, int]) -> None:
    row = {"prompt": "why", "response_1": "yes", "response_2": "no", "winner": winner}
    ((_, group),) = read_comparisons([("f:1", row)], Dropped())
    assert group.ranks == ranks


def test_battles_are_read_also_where_a_topic_is_named() -> None:
    columns = ComparisonColumns(topic="area", keep=["context"])
    ((_, group),) = read_comparisons([("f:1", {**BATTLES[2], "area": "x"})], Dropped(), columns)
    assert (group.prompt, group.topic, group.columns) == ([ASKED], "x", {"context": [ASKED]})


def test_an_overall_preference_is_a_judgement_only_beside_two_numbered_responses() -> None:
    row = {**BATTLES[3], "overall_preference": "high"}
    ((_, group),) = read_comparisons([("f:1", row)], Dropped())
    assert (group.ranks, group.columns) == ((0, 1), {"overall_preference": "high"})
    with pytest.raises(DataError, match="f:1: overall_preference must be a finite number, found 'high'"):
        list(read_comparisons([("f:1", {**BATTLES[2], "overall_preference": "high"})], Dropped()))


@pytest.mark.parametrize("winner", ["tie", "tie (bothbad)", "both bad"])
def test_a_battle_may_be_a_tie(winner: str) -> None:
    ((_, group),) = read_comparisons([("f:1", {**BATTLES[0], "winner": winner})], Dropped())
    assert group.ranks == (0, 0)


def test_conversations_that_part_early_are_counted() -> None:
    dropped, other = Dropped(), [ASKED, NO, ASKED, NO]
    row = {"conversation_a": [ASKED, YES, ASKED, YES], "conversation_b": other, "winner": "model_a"}
    assert not list(read_comparisons([("f:1", row)], dropped))
    assert dropped == {"the conversations part before their last turn": 1}


SPELT: Row = {"prompt": '["why"]', "response_a": '["yes"]', "response_b": '["no"]', "label": "a"}


def test_lists_of_turns_that_an_arena_spells_are_read() -> None:
    row = {**SPELT, "prompt": '["hm", "why"]', "response_a": '["well", "yes"]', "response_b": '["well", null]'}
    dropped = Dropped()
    ((_, group),) = read_comparisons([("f:1", {**SPELT, "model_a": "x"})], dropped)
    assert (group.prompt, group.responses) == ([ASKED], ([YES], [NO]))
    assert not list(read_comparisons([("f:2", {**row, "model_a": "x"})], dropped))
    assert dropped == {"empty prompt or response": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "prompt is a text that spells a list of texts; write the turns as messages"),
        ({"model_a": "x", "response_b": "no"}, "prompt is a text that spells a list of texts, and not both answers do"),
        ({"prompt": json.dumps([ASKED])}, "prompt is a text that spells messages"),
    ],
)
def test_spelled_lists_that_may_be_text_are_refused(changes: Row, message: str) -> None:
    with pytest.raises(DataError, match=f"f:1: {message}"):
        list(read_comparisons([("f:1", {**SPELT, **changes})], Dropped()))


def test_a_prompt_that_spells_a_list_alone_is_text() -> None:
    row = {**SPELT, "response_a": "yes", "response_b": "no"}
    ((_, group),) = read_comparisons([("f:1", row)], Dropped())
    assert group.prompt == '["why"]'


@pytest.mark.parametrize("spelt", [json.dumps, repr])
def test_cells_that_hold_messages_are_read(tmp_path: Path, spelt: Any) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["chosen", "rejected", "n"], [spelt([ASKED, YES]), spelt([ASKED, NO]), "[1]"]])
    ((_, fields),) = read_rows(str(tmp_path / "a.csv"))
    assert fields == {"chosen": [ASKED, YES], "rejected": [ASKED, NO], "n": "[1]"}


def test_cells_that_are_no_messages_stay_text(tmp_path: Path) -> None:
    deep = "[" * 10**5
    rows = [["chosen", "rejected", "n"], ['{"a": 1}', '{"value": 2}', f'["{deep}'], ["{}", "x", deep]]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert list(next(read_rows(str(tmp_path / "a.csv")))[1].values()) == rows[1]


def test_cells_that_look_like_messages_and_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("chosen\tn\n[{'role': 'user' 'content': 'x'}]\t1\n")
    with pytest.raises(DataError, match=r"a.tsv:2: chosen looks like messages"):
        list(read_rows(str(tmp_path / "a.tsv")))


def test_paths_lead_to_fields_and_to_all_elements(tmp_path: Path) -> None:
    answers = [{"text": "a", "rank": 1}, {"text": "b", "rank": 2}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"info": {"post": "p"}, "answers": answers}))
    columns = {"prompt": "info.post", "responses": "answers[].text", "ranks": "answers[].rank"}

    words = {"use": "rankings", "source": str(tmp_path / "a.jsonl"), "columns": columns}
    (group,) = component("data_format", words).load(Base(""), 0).train
    assert (group.prompt, group.responses, group.ranks) == ("p", ("a", "b"), (0, 1))
    assert Preference.recognises({"messages": [], "rejected_response": ""})
