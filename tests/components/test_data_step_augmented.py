"""Rows in other words: what is replaced, what is kept, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_plugins import DataError
from rlhf_plugins.contract.rows import Data, Group, Origin
from rlhf_plugins.data.changes.restyled import STYLES
from rlhf_plugins.recipe.assemble import component


def made(name: str, *responses: Any, seed: int = 0, **options: Any) -> Any:
    """The copies that a step makes of one ranked row."""
    group = Group("q", responses, tuple(range(len(responses))), margin=2.0, origin=Origin("a", 3))
    return component("data_step", {"use": name, "share": 1.0, **options})(Data((group,)), seed).train[1:]


def step(folder: Path, groups: list[Group], words: Any, **options: Any) -> Data:
    (folder / "words.json").write_text(json.dumps(words))
    spec = {"use": "synonyms", "file": str(folder / "words.json"), "share": 1.0, "rate": 1.0, **options}
    return component("data_step", spec)(Data(tuple(groups)), 0)


def test_a_copy_has_synonyms_and_the_same_judgement(tmp_path: Path) -> None:
    group = Group("how big?", ("Big cats run.", "A bigger dog"), (0, 1), margin=2.0, origin=Origin("a", 3))
    kept, copy = step(tmp_path, [group, Group("q", ("none", "of it"), (0, 1))], {"big": ["large"]}).train[::2]
    assert kept == group
    assert (copy.prompt, copy.responses, copy.margin) == ("how big?", ("Large cats run.", "A bigger dog"), 2.0)
    assert copy.origin == Origin("synonyms", parents=("a:3",))


def test_contents_of_messages_are_changed(tmp_path: Path) -> None:
    said = [{"role": "assistant", "content": "a big one"}]
    (_, copy) = step(tmp_path, [Group([{"role": "user", "content": "big"}], (said,))], {"big": ["huge"]}).train
    assert copy.responses == ([{"role": "assistant", "content": "a huge one"}],)


def test_responses_that_would_become_equal_are_not_copied(tmp_path: Path) -> None:
    group = Group("q", ("big", "large"), (0, 1))
    with pytest.raises(DataError, match="no response that was drawn has a word"):
        step(tmp_path, [group], {"big": ["large"]})


@pytest.mark.parametrize("words", [["big"], {"big": "large"}, {"big": []}])
def test_what_is_no_list_of_synonyms_is_refused(words: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="should be words with lists of synonyms"):
        step(tmp_path, [Group("q", ("big",))], words)


STYLED = [
    ("bullets", "Rain fell. We left.", "- Rain fell.\n- We left."),
    ("lines", "Rain fell. We left.", "Rain fell.\nWe left."),
    ("plain", "# Rain\n\n- **Rain** fell 2 * 3 times.", "Rain\n\nRain fell 2 * 3 times."),
    ("contracted", "Do not go, it cannot rain.", "Don't go, it can't rain."),
    ("expanded", "Don\N{RIGHT SINGLE QUOTATION MARK}t go, it won't rain.", "Do not go, it will not rain."),
]


@pytest.mark.parametrize(("style", "text", "other"), STYLED)
def test_each_style_by_hand(style: str, text: str, other: str) -> None:
    (copy,) = made("restyled", text, "It does not rain. **Is** it so? It isn't.", styles=[style])
    assert (copy.responses[0], copy.ranks, copy.margin) == (other, (0, 1), 2.0)
    assert copy.origin == Origin(f"restyled: {style}", parents=("a:3",))


def test_a_style_changes_every_response_or_none() -> None:
    with pytest.raises(DataError, match="no row that was drawn can be contracted or plain"):
        made("restyled", "Do not go.", "Go.", styles=["contracted", "plain"])
    with pytest.raises(DataError, match="can be bullets"):
        made("restyled", "See here. ```x. y```", "One. Two.", styles=["bullets"])


@pytest.mark.parametrize("seed", range(4))
def test_independent_sentences_come_in_another_order_with_the_same_judgement(seed: int) -> None:
    (copy,) = made("reordered", "Cats run. Dogs bark. Birds fly.", "One.", seed=seed)
    assert copy.responses[0] != "Cats run. Dogs bark. Birds fly."
    assert sorted(copy.responses[0].rstrip(".").split(". ")) == ["Birds fly", "Cats run", "Dogs bark"]
    assert (copy.responses[1], copy.ranks) == ("One.", (0, 1))


@pytest.mark.parametrize(
    "text", ["Cats run. They bark.", "Cats run. Then dogs bark.", "One. 2.", "Cats run.\nDogs bark."]
)
def test_sentences_that_may_refer_to_each_other_keep_their_order(text: str) -> None:
    with pytest.raises(DataError, match="sentences that do not refer to each other"):
        made("reordered", text)


@settings(max_examples=25)
@given(
    st.lists(st.sampled_from(["Cats do not run.", "I can't see.", "Is rain **wet**?", "Go!"]), min_size=1, max_size=4)
)
def test_a_style_keeps_every_word(parts: list[str]) -> None:
    text = " ".join(parts)
    for name in ("bullets", "lines", "plain"):
        other = STYLES[name](text)
        assert other is None or other.replace("- ", "").replace("**", "").split() == text.replace("**", "").split()
    expanded = STYLES["expanded"](text) or text
    contracted = STYLES["contracted"](expanded) or expanded
    assert (STYLES["expanded"](contracted) or contracted) == expanded
