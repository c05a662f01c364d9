"""Our own components are plugins like any other: without one file of them, all that does not name it goes on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from warm import Warm

from rlhf_plugins import registry
from rlhf_plugins.recipe.check import bundled, load_recipe
from rlhf_plugins.recipe.provenance import plugins

ROOT = Path(__file__).parents[2]
FILES = sorted(file.name for file in (ROOT / "rlhf_plugins/components").glob("[a-z]*.py"))


@pytest.fixture(scope="module")
def without(python: Warm, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What a copy of the package without this file can still do."""

    @cache
    def told(file: str) -> dict[str, Any]:
        copy = tmp_path_factory.mktemp(file)
        for folder in ("rlhf_plugins", "recipes"):
            shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "rlhf_plugins/components" / file).unlink()
        done = python(str(Path(__file__).with_name("without.py")), path=(copy,))
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return told


@pytest.fixture(scope="module")
def uses() -> dict[str, set[str]]:
    """By bundled recipe, the plugins that it needs."""
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


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("file", FILES)
def test_without_a_file_only_tests_that_name_its_components_fail(file: str, tmp_path: Path) -> None:
    kept = shutil.ignore_patterns(".*", "__pycache__", "runs", "build")
    shutil.copytree(ROOT, tmp_path / "copy", ignore=kept)
    (tmp_path / "copy/rlhf_plugins/components" / file).unlink()
    words = ["-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-W", "ignore"]
    words += ["--continue-on-collection-errors", "tests/components"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path / "copy", capture_output=True, text=True)
    failed = set(re.findall(r"^(?:FAILED|ERROR) (tests/\w+/test_\w+\.py)", done.stdout, re.MULTILINE))
    assert failed
    assert {test for test in failed if not _names(ROOT / test, file)} == set()


def _names(test: Path, file: str) -> bool:
    """Whether a file of tests imports a file of components, or names one of its components."""
    stem, text = file.removesuffix(".py"), test.read_text(encoding="utf-8")
    names = [c.name for c in registry().describe() if c.plugin.name == f"components.{stem}"]
    imported = re.search(rf"components(\.| import .*\b){stem}\b", text)
    return bool(imported) or any(f'"{name}"' in text for name in names)
