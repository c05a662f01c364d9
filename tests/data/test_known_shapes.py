"""Every shape that people's files have is read without an option: `shapes/` holds one file each, three rows by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.contract.rows import Group
from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.batches.groups import best_response
from rlhf_plugins.data.dropped import Dropped
from rlhf_plugins.data.fields import content
from rlhf_plugins.data.formats.comparisons import read_comparisons
from rlhf_plugins.data.formats.supervised import is_prompt, read_answers
from rlhf_plugins.data.sources import ComparisonColumns
from rlhf_plugins.errors import DataError, PluginError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.registry.registry import registry
from rlhf_plugins.run.session import recognised

FILES = {file.stem: file for file in sorted((Path(__file__).parent / "shapes").iterdir())}
GOOD = {
    "Why is the sky blue?": "It scatters blue light most.",
    "How do tides work?": "The moon pulls the sea.",
    "What is rust?": "Iron joined with oxygen.",
}
FORMATS = {"pairs": "preference", "labels": "supervised"}  # of the first word of a name, where that is not the format


def read(name: str) -> list[Group]:
    format = recognised(str(FILES[name]), registry(), "")
    assert format == FORMATS.get(kind := name.partition("_")[0], kind)
    data = component("data_format", {"use": format, "source": str(FILES[name])}).load(Base(""), 0)
    assert not data.dropped
    return [*data.train, *data.test]


def asked(group: Group) -> str:
    """The question in a prompt, the last thing that it says."""
    (found,) = [question for question in GOOD if question in content(group.prompt)]
    assert content(group.prompt).removesuffix("\n\nAssistant:").endswith(found)
    return found


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("prompts")])
def test_the_good_answer_is_the_best_of_its_question(name: str) -> None:
    groups = read(name)
    assert {asked(group) for group in groups} == GOOD.keys()
    for group in groups:
        best = best_response(group)
        assert (best is None) == (group.label is False)
        assert best is None or content(best).strip() == GOOD[asked(group)]
        assert (len(group.responses) > 1) == (name.partition("_")[0] not in ("labels", "supervised"))


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("prompts")])
def test_prompts_keep_what_a_reward_reads(name: str) -> None:
    groups = read(name)
    assert [group.responses for group in groups] == [()] * 3
    assert {asked(group) for group in groups} == GOOD.keys()
    assert {tuple(group.columns) for group in groups} == {
        {"answer": ("answer",), "messages": ("tests",)}.get(name[8:], ())
    }


def test_conversations_keep_all_their_turns() -> None:
    turns = {name: {len(group.prompt) for group in read(name)} for name in ("pairs_messages", "supervised_messages")}
    assert turns == {"pairs_messages": {3}, "supervised_messages": {3}}


@pytest.mark.parametrize("name", ["comparisons_arena", "comparisons_battles", "comparisons_cells"])
def test_ties_are_ties(name: str) -> None:
    assert {(asked(g), c.tied) for g in read(name) for c in g.comparisons} >= {("What is rust?", True)}


@pytest.mark.parametrize("dimensions", [["rank"], {"score": "answers.rank"}])
def test_ranks_are_not_read_as_ratings(dimensions: Any) -> None:
    words = {"use": "ratings", "source": str(FILES["rankings_in_answers"]), "dimensions": dimensions}
    with pytest.raises(PluginError, match="is a place, of which the lowest is best"):
        component("data_format", words)


@pytest.mark.parametrize(
    ("format", "name", "columns"),
    [
        ("preference", "pairs_text", {"prompt": "chosen"}),
        ("ratings", "ratings_one_a_row", {"prompt": "response"}),
        ("rankings", "rankings_order", {"prompt": "responses[1]", "responses": "responses[]"}),
    ],
)
def test_an_answer_is_not_read_as_the_prompt(format: str, name: str, columns: dict[str, str]) -> None:
    with pytest.raises(PluginError, match="so that the prompt would be the answer"):
        component("data_format", {"use": format, "source": str(FILES[name]), "columns": columns})


SAFE = {"prompt": "p", "response_0": "x", "response_1": "y", "better_response_id": 1, "safer_response_id": 0}


@pytest.mark.parametrize(("label", "ranks"), [("better_response_id", (1, 0)), ("safer_response_id", (0, 1))])
def test_of_two_better_responses_the_one_that_is_named_is(label: str, ranks: tuple[int, int]) -> None:
    ((_, group),) = read_comparisons([("f:1", SAFE)], Dropped(), ComparisonColumns(label=label))
    (other,) = {"better_response_id", "safer_response_id"} - {label}
    assert (group.responses, group.ranks, group.columns) == (("x", "y"), ranks, {other: SAFE[other]})


def test_two_better_responses_are_not_guessed_between() -> None:
    with pytest.raises(DataError, match=r"f:1: better_response_id and safer_response_id name .* `columns: {label: be"):
        list(read_comparisons([("f:1", SAFE)], Dropped()))


@pytest.mark.parametrize(
    ("judged", "ranks"),
    [
        ({"safer_response_id": 1}, (1, 0)),
        ({"label": "response_1"}, (1, 0)),  # which beside response_2 is the first
        ({"winner": "response_0"}, (0, 1)),
        ({"label": "tie"}, (0, 0)),
        ({"label": 0}, (0, 1)),
    ],
)
def test_responses_that_are_numbered_from_0(judged: dict[str, Any], ranks: tuple[int, int]) -> None:
    row = {"prompt": "p", "response_0": "x", "response_1": "y", **judged}
    ((_, group),) = read_comparisons([("f:1", row)], Dropped())
    assert (group.responses, group.ranks, group.columns) == (("x", "y"), ranks, {})


def test_own_words_of_numbers_stay() -> None:
    row = {"prompt": "p", "response_0": "x", "response_1": "y", "label": 1}
    ((_, group),) = read_comparisons([("f:1", row)], Dropped(), labels={"1": "a", "2": "b"})
    assert group.ranks == (0, 1)


@pytest.mark.parametrize("label", [None, 2, "A"])
def test_a_label_of_shp_that_is_neither_is_refused(label: Any) -> None:
    row = {"history": "p", "human_ref_A": "x", "human_ref_B": "y", "labels": label}
    with pytest.raises(DataError, match="f:1: labels must be 1 where human_ref_A is preferred"):
        list(read_comparisons([("f:1", row)], Dropped()))


def test_an_id_called_conversation_is_no_conversation() -> None:
    ((_, group),) = read_answers([("f:1", {"prompt": "p", "completion": "c", "conversation": "7"})], Dropped())
    assert (group.prompt, group.columns) == ("p", {"conversation": "7"})
    assert is_prompt({"prompt": "p", "conversation": "7"})
