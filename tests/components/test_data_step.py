"""Steps on loaded rows, by hand: what each leaves out and why, and what stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import DataError, PluginError
from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.contract.run import Base
from rlhf_plugins.recipe.assemble import component


def step(name: str, groups: list[Group], *test: Group, **options: Any) -> Data:
    return component("data_step", {"use": name, **options})(Data(tuple(groups), test), 0)


def asked(*prompts: str) -> list[Group]:
    return [Group(prompt, ("yes", "no"), (0, 1)) for prompt in prompts]


BROKEN = [
    ("hi", "too_short", {}),
    ("https://a.example/b c", "too_short", {}),  # a link is no word
    ("one two three", "too_long", {"max_words": 2}),
    ("ab !!!", "few_letters", {"min_words": 1}),  # 2 of 5
    ("go on go on go on go", "repetitive", {}),  # 5 sequences of 3 words, 2 of them different: 0.6 came before
    ("Write about [INSERT topic]", "placeholder", {}),
]


@pytest.mark.parametrize(("prompt", "rule", "options"), BROKEN)
def test_a_prompt_that_breaks_a_rule_is_left_out_by_its_name(prompt: str, rule: str, options: Any) -> None:
    found = step("prompt_rules", asked(prompt, "why blue?"), **options)
    assert [group.prompt for group in found.train] == ["why blue?"]
    assert found.dropped == {f"prompt_rules: {rule}": 1}


def test_a_rule_that_is_null_leaves_nothing_out() -> None:
    options = {"min_words": None, "max_words": None, "min_letters": None, "max_repeated": None, "placeholders": []}
    assert step("prompt_rules", asked(*(prompt for prompt, _, _ in BROKEN)), **options).dropped == {}


def test_each_chinese_character_is_a_word() -> None:
    assert len(step("prompt_rules", asked("天空为何蓝?", "why blue?"), min_words=5).train) == 1


def test_near_duplicates_of_rows_out_of_distribution_are_left_out() -> None:
    data = Data(
        tuple(asked("How do birds fly?", "Why is it so?")), out_of_distribution=tuple(asked("how do birds fly"))
    )
    found = component("data_step", {"use": "near_duplicates"})(data, 0)
    assert [group.prompt for group in found.train] == ["Why is it so?"]
    assert found.dropped == {"near_duplicates: of a held-out row": 1}


def test_near_duplicates_of_earlier_and_of_held_out_rows_are_counted_apart() -> None:
    rows = asked("Why is the sky so blue?", "why is the sky so blue", "How do birds fly?", "Who was Ada Lovelace?")
    found = step("near_duplicates", rows, *asked("How do birds fly??"))
    assert [group.prompt for group in found.train] == ["Why is the sky so blue?", "Who was Ada Lovelace?"]
    assert found.dropped == {
        "near_duplicates: of an earlier row": 1,
        "near_duplicates: of a held-out row": 1,
    }


def test_rows_of_one_prompt_are_no_duplicates_by_their_prompt() -> None:
    rows = [Group("Why is it so blue?", (answer,)) for answer in ("Light scatters.", "Ask a painter.")]
    near = Group("why is it so blue", ("Nobody knows.",))
    assert len(step("near_duplicates", [*rows, near], over="prompt").train) == 2
    assert len(step("near_duplicates", [*rows, near]).train) == 3


def written(folder: Path, *prompts: str) -> dict[str, Any]:
    rows = [{"prompt": prompt, "chosen": "yes", "rejected": "no"} for prompt in prompts]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"format": "preference", "source": str(folder / "rows.jsonl"), "test_fraction": 0.2}


def test_a_recipe_prepares_rows_of_any_format(tmp_path: Path) -> None:
    numbered = [f"What comes after number {i}?" for i in range(9)]
    options = {"rows": written(tmp_path, "hi", *numbered), "steps": ["prompt_rules"]}
    made = component("data_format", {"use": "prepared", **options})
    data, plain = made.load(Base(""), 0), made.rows.load(Base(""), 0)
    assert data.test == plain.test
    assert "hi" not in [group.prompt for group in (*data.train, *data.prompts["train"])]
    assert data.dropped == {"prompt_rules: too_short": 1}
    assert made.ordered
    assert made.known_columns() == {"ranks"}


def test_steps_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    rows = written(tmp_path, "a b", "b c", "c d")
    options = {"rows": rows, "steps": [{"use": "prompt_rules", "min_words": 5}]}
    with pytest.raises(DataError, match=r"steps\.0: left out all 2 training rows: 2 prompt_rules: too_short"):
        component("data_format", {"use": "prepared", **options}).load(Base(""), 0)
    with pytest.raises(PluginError, match="needs at least one data_step"):
        component("data_format", {"use": "prepared", "rows": rows, "steps": []})
