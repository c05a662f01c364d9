"""Paths of a recipe start from its folder, those of the command line from the working directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import check_recipe, component
from rlhf_plugins.errors import RecipeError
from rlhf_plugins.recipe.check import several
from rlhf_plugins.testing import tiny_base

ROW = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
RECIPE = """\
base: sandbox
data: {format: preference, source: rows.jsonl}
stages:
  - {stage: reward_model}
  - {stage: online, reward: {use: python, path: "rewards/own.py:short"}}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with its rows and its reward in one folder; the working directory is another."""
    (tmp_path / "recipes" / "rewards").mkdir(parents=True)
    (tmp_path / "recipes" / "rewards" / "own.py").write_text("short = len")
    (tmp_path / "recipes" / "rows.jsonl").write_text(ROW)
    (file := tmp_path / "recipes" / "mine.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return file


def faults(recipe: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        check_recipe(recipe, overrides)
    return [fault.message for fault in caught.value.faults]


def test_they_start_from_the_recipe(recipe: Path) -> None:
    found: Any = check_recipe(recipe)
    assert found["data"]["source"] == str(recipe.parent / "rows.jsonl")
    assert found["stages"][1]["reward"]["path"] == f"{recipe.parent / 'rewards' / 'own.py'}:short"


def test_those_of_the_command_line_start_from_the_working_directory(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "more.jsonl").write_text(ROW)
    assert check_recipe(recipe, ["data.source=more.jsonl"])["data"]["source"] == str(tmp_path / "more.jsonl")
    assert faults(recipe, "data.source=rows.jsonl")[0].startswith("there is no file 'rows.jsonl'")


def test_what_is_in_the_working_directory_alone_is_refused(recipe: Path, tmp_path: Path) -> None:
    (recipe.parent / "rows.jsonl").rename(tmp_path / "rows.jsonl")
    where = "'rows.jsonl' is not in the recipe's folder, from which its paths start"
    assert faults(recipe) == [f"{where}: write '../rows.jsonl'"]


def test_what_is_nowhere_is_looked_for_beside_the_recipe(recipe: Path) -> None:
    (recipe.parent / "rows.jsonl").rename(recipe.parent / "row.jsonl")
    assert f"(did you mean {recipe.parent / 'row.jsonl'}?)" in faults(recipe)[0]


def test_a_chat_template_starts_from_the_recipe(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(f"chat_template: own.jinja\n{RECIPE}")
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    assert "write '../own.jinja'" in faults(recipe)[0]
    (tmp_path / "own.jinja").rename(recipe.parent / "own.jinja")
    assert check_recipe(recipe)["chat_template"] == "{{ messages }}"
    (recipe.parent / "own.jinja").write_text("{{ messages }}", encoding="utf-8-sig")  # as Windows' editors do
    assert check_recipe(recipe)["chat_template"] == "{{ messages }}"


def test_the_values_of_a_sweep_start_from_the_recipe(recipe: Path) -> None:
    recipe.write_text(f"{RECIPE}sweep: {{data.source: [rows.jsonl]}}\n")
    (member,) = several(recipe)
    found = check_recipe(recipe, ["sweep={}", *member.overrides])
    assert found["data"]["source"] == str(recipe.parent / "rows.jsonl")


def test_the_values_of_a_sweep_on_the_command_line_start_from_the_working_directory(
    recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "more.jsonl").write_text(ROW)
    (member,) = several(recipe, ["sweep={data.source: [more.jsonl]}"])
    found = check_recipe(recipe, ["sweep={}", *member.overrides])
    assert found["data"]["source"] == str(tmp_path / "more.jsonl")


def test_the_base_of_a_reward_model_starts_from_the_recipe(recipe: Path) -> None:
    tiny_base(recipe.parent / "trunk")
    recipe.write_text(recipe.read_text().replace("stage: reward_model", "stage: reward_model, base: trunk"))
    assert check_recipe(recipe)["stages"][0]["base"] == str(recipe.parent / "trunk")


def test_names_that_are_no_paths_stay(recipe: Path) -> None:
    (recipe.parent / "sandbox").mkdir()
    found = check_recipe(recipe, ["data.source=owner/rows", "stages.online.reward.path=json:loads"])
    assert (found["base"], found["data"]["source"]) == ("sandbox", "owner/rows")
    assert found["stages"][1]["reward"]["path"] == "json:loads"


def test_a_function_of_a_module_is_no_folder(recipe: Path) -> None:
    (recipe.parent / "json").mkdir()
    found = check_recipe(recipe, ["stages.online.reward.path=json:loads"])
    assert found["stages"][1]["reward"]["path"] == "json:loads"
    recipe.write_text(recipe.read_text().replace("rewards/own.py:short", "json:loads"))
    assert check_recipe(recipe)["stages"][1]["reward"]["path"] == "json:loads"


def test_a_component_made_in_python_keeps_its_path(recipe: Path) -> None:
    assert component("data_format", "preference", source="rows.jsonl").source == "rows.jsonl"
