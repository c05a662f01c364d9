"""Rows in other words: what is replaced, what is kept, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import DataError
from rlhf_plugins.contract.rows import Data, Group, Origin
from rlhf_plugins.recipe.assemble import component


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
