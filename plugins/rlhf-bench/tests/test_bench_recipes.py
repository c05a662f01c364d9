"""The recipes of this package are sound, and short enough to be read at a glance."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_plugins import check_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_is_sound(recipe: Path) -> None:
    assert check_recipe(recipe)["stages"]
    assert len(recipe.read_text().splitlines()) <= 40
