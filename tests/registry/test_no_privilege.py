"""Our own components are plugins like any other: without one file of them, all that does not name it goes on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from marks import slow
from warm import Warm

from rlhf_plugins import registry
from rlhf_plugins.recipe.check import bundled, load_recipe
from rlhf_plugins.recipe.provenance import plugins

ROOT = Path(__file__).parents[2]
ALL = sorted(file.name for file in (ROOT / "rlhf_plugins/components").glob("[a-z]*.py"))
FEW = ("advantage.py", "reward_loss.py")
FILES = [*FEW, *slow(*(file for file in ALL if file not in FEW))]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file that bundled recipes name for people's own preferences."""
    folder = tmp_path_factory.mktemp("rows")
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "topic": "t"}
    (folder / "preferences.jsonl").write_text(json.dumps(row) + "\n")
    return folder


@pytest.fixture(scope="module")
def without(python: Warm, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What a copy of the package without this file can still do."""
    copy = tmp_path_factory.mktemp("copy")
    for folder in ("rlhf_plugins", "recipes"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))

    @cache
    def described(file: str) -> dict[str, Any]:
        away = (copy / "rlhf_plugins/components" / file).rename(copy / file)
        done = python(str(Path(__file__).with_name("without.py")), path=(copy,), cwd=rows)
        away.rename(copy / "rlhf_plugins/components" / file)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return described


@pytest.fixture(scope="module")
def uses(rows: Path) -> dict[str, set[str]]:
    """By bundled recipe, the plugins that it needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(rows)
        made = {name: load_recipe(name) for name in bundled()}
    return {name: {p.name for p in plugins((one.data, *one.stages), one.registry)} for name, one in made.items()}


@pytest.mark.parametrize("file", FILES)
def test_without_a_file_all_else_registers(file: str, without: Callable[[str], dict[str, Any]]) -> None:
    own = f"components.{file.removesuffix('.py')}"
    kept = [[c.kind, c.name, c.plugin.name] for c in registry().describe() if c.plugin.name != own]
    assert without(file)["components"] == kept
    assert without(file)["unloaded"] == []


@pytest.mark.parametrize("file", FILES)
def test_without_a_file_recipes_that_do_not_need_it_check(
    file: str, without: Callable[[str], dict[str, Any]], uses: dict[str, set[str]]
) -> None:
    own = f"components.{file.removesuffix('.py')}"
    for recipe, fault in without(file)["recipes"].items():
        assert bool(fault) == (own in uses[recipe]), (recipe, fault)
        assert not fault or re.search("unknown (.*) '|is required|needs at least", fault)
