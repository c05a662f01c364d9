"""Every form of rows as every other: nothing is invented, what is lost is counted, and the rest comes back."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import trl
from hypothesis import given, settings
from hypothesis import strategies as st
from templates import chat_base

from rlhf_plugins.contract.rows import Comparison, Group
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.formats.comparisons import read_comparisons
from rlhf_plugins.data.formats.output_forms import FORMS, facts, lost, read_again
from rlhf_plugins.engine.weights.loading import load_row_encoder

DERIVED = {"label", "rating", "weight"}  # a preferred response is desirable, which is a rating of 1
COMPARED = {"preference", "tie", "margin", "group of responses judged together"}  # that ratings of one prompt give
COME_BACK = [(a, b) for a in ("pairs", "comparisons") for b in ("comparisons", "rankings")]
TIDE = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object", "properties": {}}}}
WORDS = ("ant", "bee", "cat", "dog")


@st.composite
def groups(draw: st.DrawFn) -> Group:
    """A group as any format may make it."""
    count = draw(st.integers(0, 4))
    more: dict[str, Any] = {"weight": draw(st.sampled_from((1.0, 0.5))), "topic": draw(st.none() | st.just("t"))}
    more["columns"] = draw(st.sampled_from(({}, {"answer": 4}, {"user": "ann"})))
    kind = draw(st.sampled_from(("ranks", "compared", "ratings", "plain")))
    if count == 1:
        more["label"] = draw(st.none() | st.booleans())
    if kind == "ranks" and count > 1:
        more["ranks"] = tuple(draw(st.lists(st.none() | st.integers(0, 2), min_size=count, max_size=count)))
    if kind == "compared" and count > 1:
        more["compared"] = (draw(comparisons()),)
    if kind == "ratings" and count:
        values = st.none() | st.integers(0, 3).map(float)
        more["ratings"] = {"true": tuple(draw(st.lists(values, min_size=count, max_size=count)))}
    as_messages = draw(st.booleans())
    texts = tuple([{"role": "assistant", "content": word}] if as_messages else word for word in WORDS[:count])
    asked, tools = draw(st.sampled_from(("who", "why"))), draw(st.sampled_from(({}, {"tools": [TIDE]})))
    return Group([{"role": "user", "content": asked, **tools}] if as_messages else asked, texts, **more)


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    """A judgement of the first two responses."""
    likely, who = draw(st.sampled_from((None, 0.75, 0.5))), draw(st.none() | st.just("ann"))
    tied = likely == 0.5 or (likely is None and draw(st.booleans()))
    margin = None if tied or likely else draw(st.sampled_from((None, 2.0)))
    return Comparison(0, 1, tied, margin, draw(st.sampled_from((1.0, 2.0))), likely, who)


def through(name: str, given_: list[Group]) -> list[Group]:
    return read_again(FORMS[name], FORMS[name].write(given_), given_)


@pytest.mark.parametrize(("first", "second"), [*product(FORMS, FORMS)])
@settings(max_examples=20)
@given(group=groups())
def test_no_form_invents_a_fact_and_without_a_loss_all_come_back(first: str, second: str, group: Group) -> None:
    given_ = through(first, [group])
    there = through(second, given_)
    gone = lost(given_, FORMS[second], FORMS[second].write(given_))
    allowed = DERIVED | COMPARED if second == "ratings" else DERIVED
    assert {kind for kind, *_ in facts(there).keys() - facts(given_).keys()} <= allowed
    assert bool(gone) == bool(facts(given_).keys() - facts(there).keys())
    if not gone:
        assert facts(through(first, there)).keys() >= facts(given_).keys()


@pytest.mark.parametrize(("first", "second"), COME_BACK)
@settings(max_examples=20)
@given(group=groups())
def test_judgements_of_pairs_come_back_whole(first: str, second: str, group: Group) -> None:
    given_ = through(first, [group])
    assert facts(through(first, through(second, given_))) == facts(given_)


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=20)
@given(group=groups())
def test_a_form_that_is_read_is_written_the_same(name: str, group: Group) -> None:
    read = through(name, [group])
    assert FORMS[name].write(through(name, read)) == FORMS[name].write(read)


def test_what_is_lost_by_hand() -> None:
    ranked = Group("p", ("x", "y", "z"), (0, 1, 1), topic="t", columns={"answer": 4})
    one = "group of responses judged together"
    expected = {
        "pairs": {one: 1, "tie": 1},
        "comparisons": {one: 1},
        "rankings": {},
        "supervised": {"response": 2, one: 1, "preference": 2, "tie": 1},
        "labels": {one: 1, "preference": 2, "tie": 1},
        "prompts": {"response": 3, one: 1, "preference": 2, "tie": 1},
    }
    assert {name: lost([ranked], FORMS[name], FORMS[name].write([ranked])) for name in expected} == expected


def test_a_response_that_is_better_and_worse_gets_no_label() -> None:
    rows = FORMS["labels"].write([Group("p", ("x", "y", "z"), (0, 1, 2))])
    assert [(row["completion"], row["label"]) for row in rows] == [("x", True), ("z", False)]


def test_a_row_without_a_strength_is_read_by_its_label() -> None:
    row = {"prompt": "p", "response_a": "x", "response_b": "y", "label": "b", "strength_a_minus_b": None}
    ((_, group),) = read_comparisons([("a:1", row)], Dropped())
    assert (group.ranks, group.margin) == ((1, 0), None)


def test_tools_are_a_column_as_trl_has_them(tmp_path: Path) -> None:
    asked, said = {"role": "user", "content": "who"}, [{"role": "assistant", "content": "ant"}]
    group = Group([{**asked, "tools": [TIDE]}], (said, [{"role": "assistant", "content": "bee"}]), (0, 1))
    (row,) = FORMS["pairs"].write([group])
    assert row == {"prompt": [asked], "chosen": said, "rejected": group.responses[1], "tools": [TIDE]}
    encoder = load_row_encoder(chat_base(tmp_path, "qwen"))
    theirs = trl.apply_chat_template({"prompt": row["prompt"]}, encoder.tokenizer, tools=row["tools"])["prompt"]
    assert "tide" in theirs
    assert encoder.tokenizer(theirs)["input_ids"] == encoder.encode_start(group.prompt)
    _, other = FORMS["pairs"].write([group, Group([asked], group.responses, (0, 1))])
    assert other["tools"] is None
