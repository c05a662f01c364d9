"""Preference rows to groups: implicit prompts, conversations, the split by prompt, and what is left out and counted."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from rlhf_plugins.components.data_format import Preference
from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import key
from rlhf_plugins.data.formats.preference import read_pairs
from rlhf_plugins.data.sources import Sources
from rlhf_plugins.data.splits import digest, in_random_order
from rlhf_plugins.data.splits import load as loaded
from rlhf_plugins.errors import DataError

Row = dict[str, Any]
Load = Callable[..., Data]
SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads rows through a file; those of a single prompt are all to train on."""

    def load(rows: list[Row], test_rows: list[Row] | None = None, held_out: float = 0.1, seed: int = 0) -> Any:
        paths = [tmp_path / "rows.jsonl", tmp_path / "test.jsonl"]
        for path, given in zip(paths, (rows, test_rows or []), strict=True):
            path.write_text("\n".join(map(json.dumps, given)))
        test = str(paths[1]) if test_rows else None
        return loaded(Sources(str(paths[0]), test_source=test, test_fraction=held_out), read_pairs, seed)

    return load


def row(prompt: str = "p", chosen: str = "good", rejected: str = "bad", **more: Any) -> Row:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_a_row_becomes_a_ranked_group(load: Load) -> None:
    (group,) = load([row(margin=1.5, votes=3)]).train
    assert (group.prompt, group.responses, group.ranks) == ("p", ("good", "bad"), (0, 1))
    assert (group.margin, group.gold) == (1.5, None)


@pytest.mark.parametrize(
    ("margin", "expected"), [(2, 2.0), ("0.5", 0.5), (None, None), ("", None), (-1, -1.0), ("1e3", 1000.0)]
)
def test_margins(load: Load, margin: object, expected: float | None) -> None:
    assert load([row(margin=margin)]).train[0].margin == expected


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Q: why? A: yes it is", "Q: why? A: no", "Q: why? A:"),  # the space belongs to the responses, as with TRL
        ("Human: hi\n\nAssistant: Yes", "Human: hi\n\nAssistant: Yesterday", "Human: hi\n\nAssistant:"),
        ("line\nalpha", "line\nalgae", "line\n"),  # whole words only, and a line break belongs to the prompt
    ],
)
def test_the_implicit_prompt_of_text(load: Load, chosen: str, rejected: str, prompt: str) -> None:
    (group,) = load([{"chosen": chosen, "rejected": rejected}]).train
    assert group.prompt == prompt
    assert [prompt + str(response) for response in group.responses] == [chosen, rejected]


def test_the_implicit_prompt_of_messages(load: Load) -> None:
    start = [user("hi"), assistant("hello"), user("and?")]
    (group,) = load([{"chosen": [*start, assistant("a")], "rejected": [*start, assistant("b")]}]).train
    assert group.prompt == start
    assert group.responses == ([assistant("a")], [assistant("b")])


def test_a_response_that_begins_the_other_keeps_its_last_message(load: Load) -> None:
    chosen, rejected = [user("hi"), assistant("a")], [user("hi"), assistant("a"), user("more"), assistant("b")]
    (group,) = load([{"chosen": chosen, "rejected": rejected}]).train
    assert (group.prompt, group.responses) == ([user("hi")], (chosen[1:], rejected[1:]))


def test_a_conversation_keeps_role_and_content(load: Load) -> None:
    messages = [{**user("hi"), "id": 7}]
    (group,) = load([{"prompt": messages, "chosen": [assistant("a")], "rejected": [assistant("b")]}]).train
    assert (group.prompt, group.responses) == ([user("hi")], ([assistant("a")], [assistant("b")]))


def test_rows_that_teach_nothing_are_counted(load: Load) -> None:
    useless = [
        row("q", "same", "same"),
        row("q", "  ", "x"),
        row(" ", "a", "b"),
        row("r", "a", "b"),
        row("r", "b", "a"),
    ]
    without_prompt = [{"chosen": "Yes", "rejected": "Yes"}, {"chosen": "", "rejected": "Yes"}]
    data = load([row(), *useless, *without_prompt, row()])
    assert [group.prompt for group in data.train] == ["p"]
    assert data.dropped == {
        "chosen equals rejected": 2,
        "empty prompt or response": 3,
        "contradicted by another row": 2,
        "repeated row": 1,
    }


def test_no_prompt_stands_in_both_splits(load: Load) -> None:
    rows = [row(f"prompt {i % 200}", f"good {i}") for i in range(400)]
    data = load(rows, held_out=0.25)
    train, test = ({group.prompt for group in split} for split in (data.train, data.test))
    assert (len(data.train) + len(data.test), len(train | test)) == (400, 200)
    assert not train & test
    assert len(test) == 50
    assert {name: {g.prompt for g in data.prompts[name]} for name in ("train", "test")} == {
        "train": train,
        "test": test,
    }


def test_the_split_depends_on_prompts_and_seed_alone(load: Load) -> None:
    rows = [row(f"prompt {i}") for i in range(100)]
    shuffled = random.Random(0).sample(rows, 100)
    held_out = [
        {g.prompt for g in load(r, held_out=0.3, seed=s).test} for r, s in ((rows, 0), (shuffled, 0), (rows, 1))
    ]
    assert held_out[0] == held_out[1]
    assert held_out[0] != held_out[2]


def test_a_larger_share_holds_out_more_of_the_same(load: Load) -> None:
    rows = [row(f"prompt {i}") for i in range(100)]
    few, many = ({g.prompt for g in load(rows, held_out=share).test} for share in (0.1, 0.4))
    assert few < many


def test_a_test_source_is_held_out_as_it_is(load: Load) -> None:
    data = load([row("p")], [row("q"), row("q"), row("r", "x", "x")], held_out=0.9)
    assert ([g.prompt for g in data.train], [g.prompt for g in data.test]) == (["p"], ["q"])
    assert data.dropped == {"repeated row": 1, "chosen equals rejected": 1}


@pytest.mark.parametrize("seed", range(8))
def test_prompts_that_differ_in_case_and_space_are_held_out_together(load: Load, seed: int) -> None:
    wordings = [[f"Prompt {i}", f"prompt  {i}\n", f"PROMPT {i}"] for i in range(6)]
    rows = [row(prompt) for prompts in wordings for prompt in prompts]
    data = load(rows, held_out=1 / 3, seed=seed)
    train, test = ([str(g.prompt).split()[1] for g in groups] for groups in (data.train, data.test))
    assert (len(set(train)), len(set(test)), set(train) & set(test)) == (4, 2, set())
    assert Counter(train + test) == dict.fromkeys("012345", 3)


def test_those_of_a_test_source_are_left_out_of_the_training_and_counted(load: Load) -> None:
    data = load([row("Why so?"), row("why  so?"), row("who")], [row("WHY SO?")])
    assert [group.prompt for group in data.train] == ["who"]
    assert dict(data.dropped) == {"prompt is in the test source too": 2}


@hypothesis.given(st.sets(st.text("ab ", min_size=1), min_size=1), st.integers(0, 99))
def test_the_order_of_prompts_that_differ_otherwise_is_that_of_their_hashes(prompts: set[str], seed: int) -> None:
    """So that what is held out of such rows stays what it was."""
    groups = list({Group(prompt).prompt_words: Group(prompt) for prompt in prompts}.values())
    expected = sorted(groups, key=lambda group: digest(key(group.prompt), seed))
    assert in_random_order(groups, seed) == [group.prompt_words for group in expected]


@pytest.mark.parametrize(
    ("prompts", "fraction", "held_out"),
    [(1, 0.5, 0), (2, 0.1, 1), (3, 0.1, 1), (4, 0.1, 2), (23, 0.1, 2), (40, 0.1, 4), (10, 0.99, 9)],
)
def test_two_prompts_are_held_out_of_few_but_never_all(
    load: Load, prompts: int, fraction: float, held_out: int
) -> None:
    data = load([row(f"prompt {i}") for i in range(prompts)], held_out=fraction)
    assert (len(data.train), len(data.test)) == (prompts - held_out, held_out)


def topical(tmp_path: Path, rows: list[Row], **options: Any) -> Data:
    path = tmp_path / "topics.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return Preference(str(path), hold_out="topic", **options).load(Base(""), seed=0)


def test_topics_are_held_out_whole(tmp_path: Path) -> None:
    rows = [row(f"prompt {i}", f"good {i}", topic=f"topic {i % 10}") for i in range(100)]
    data = topical(tmp_path, rows, test_fraction=0.3)
    train, test = ({group.topic for group in split} for split in (data.train, data.test))
    assert (len(train), len(test), train & test) == (7, 3, set())
    assert (len(data.train), len(data.test)) == (70, 30)


def test_a_prompt_of_a_held_out_topic_is_not_trained_on(tmp_path: Path) -> None:
    rows = [row("shared", f"good {i}", topic=f"topic {i}") for i in range(4)]
    more = [row(f"prompt {i}", topic=f"topic {i}") for i in range(4)]
    data = topical(tmp_path, rows + more)
    assert (len(data.train), len(data.test)) == (2, 4)
    assert data.dropped == {"prompt is in a held-out topic too": 2}


def test_topics_of_the_test_source_are_not_trained_on(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps(row("q", topic="s")))
    rows = [row("a", topic="s"), row("b", topic="t"), row("q", topic="t")]
    data = topical(tmp_path, rows, test_source=str(tmp_path / "test.jsonl"))
    assert [group.prompt for group in data.train] == ["b"]
    assert data.dropped == {
        "topic is in the test source too": 1,
        "prompt is in the test source too": 1,
    }
    assert isinstance(data.dropped, Dropped)
    assert data.dropped.places == {
        "topic is in the test source too": [f"{tmp_path}/topics.jsonl:1"],
        "prompt is in the test source too": [f"{tmp_path}/topics.jsonl:3"],
    }


def test_topics_that_cannot_be_held_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"topics\.jsonl:2: has no topic"):
        topical(tmp_path, [row("a", topic="t"), row("b")])
    with pytest.raises(DataError, match="has one topic, so none can be held out"):
        topical(tmp_path, [row("a", topic="t"), row("b", topic="t")])


def test_weight_topic_and_difficulty_are_kept(load: Load) -> None:
    (group,) = load([row(weight=0.5, topic="t", difficulty=3), row(prompt="q", weight=0)]).train
    assert (group.weight, group.topic, group.difficulty) == (0.5, "t", 3.0)


def test_the_place_of_what_is_left_out_is_kept(load: Load, tmp_path: Path) -> None:
    dropped = load([row(), row(), row(weight=0, prompt="q"), *[row("r", "x", "x")] * 4]).dropped
    assert isinstance(dropped, Dropped)
    assert (dropped.rows, dict(dropped)) == (7, {"repeated row": 1, "weight 0": 1, "chosen equals rejected": 4})
    assert dropped.places["repeated row"] == [f"{tmp_path}/rows.jsonl:2"]
    assert [place.rpartition(":")[2] for place in dropped.places["chosen equals rejected"]] == ["4", "5", "6"]


# rows in the file, prompts of the rows kept, and rows left out and why, counted apart from this code
REAL = [
    ("arguments_pairs.jsonl.gz", 8200, 23, {"repeated row": 54, "contradicted by another row": 4}),
    ("dialogues_harmless_pairs.jsonl.gz", 1800, 1794, {"empty prompt or response": 4}),
]


@pytest.mark.parametrize(("name", "rows", "prompts", "dropped"), REAL)
def test_preferences_of_people(name: str, rows: int, prompts: int, dropped: dict[str, int]) -> None:
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    data = loaded(Sources(str(path)), read_pairs, seed=0)
    assert data.dropped == dropped
    assert len(data.train) + len(data.test) + sum(dropped.values()) == rows
    train, test = ({g.prompt for g in split} for split in (data.train, data.test))
    assert not train & test
    assert (len(train) + len(test), len(test)) == (prompts, round(prompts / 10))


def test_annotators_may_disagree_but_none_with_himself(load: Load) -> None:
    ann, bob = ([row("p", *pair, annotator=who) for pair in (("x", "y"), ("y", "x"))] for who in ("ann", "bob"))
    assert [group.comparisons[0].annotator for group in load([ann[0], bob[1]]).train] == ["ann", "bob"]
    assert [group.comparisons[0].annotator for group in load([ann[0], bob[0]]).train] == ["ann", "bob"]
    found = load([*ann, bob[0], bob[0]])
    assert [group.comparisons[0].annotator for group in found.train] == ["bob"]
    assert dict(found.dropped) == {"contradicted by another row": 2, "repeated row": 1}


def test_a_margin_of_the_response_that_is_likely_worse_is_refused(load: Load) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1: probability is 0.25, so the rejected response is the better"):
        load([row(probability=0.25, margin=1.5)])
    (group,) = load([row(probability=0.25, margin=0)]).train
    assert (group.comparisons[0].better, group.margin) == (1, 0.0)


def test_a_row_of_weight_0_contradicts_nobody(load: Load) -> None:
    found = load([row("p", "x", "y"), row("p", "y", "x", weight=0), row("q", "x", "y")])
    assert len(found.train) + len(found.test) == 2
    assert dict(found.dropped) == {"weight 0": 1}
