"""Our own components are plugins like any other: without one file of them, all that does not name it goes on."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from warm import Warm

from rlhf_plugins import registry
from rlhf_plugins.recipe.check import bundled, load_recipe
from rlhf_plugins.recipe.provenance import plugins

ROOT = Path(__file__).parents[2]
ALL = sorted(file.name for file in (ROOT / "rlhf_plugins/components").glob("[a-z]*.py"))
FILES = [pytest.param(file, marks=[] if place % 3 == 0 else pytest.mark.slow) for place, file in enumerate(ALL)]


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


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("file", ALL)
def test_without_a_file_every_test_that_fails_uses_it(file: str, tmp_path: Path) -> None:
    """Over all tests, so a file takes as long as `make test`; `-k shaping.py` chooses one."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "runs", "build"))
    (copy / "rlhf_plugins/components" / file).unlink()
    words = ["-m", "not slow", "-p", "no:cacheprovider", "-W", "ignore", "--continue-on-collection-errors"]
    words += ["--numprocesses", str(min(8, os.cpu_count() or 1)), "--dist", "worksteal", "--junitxml", "found.xml"]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    subprocess.run([sys.executable, "-m", "pytest", *words], cwd=copy, env=environment, capture_output=True)
    failed = list(_failures(copy / "found.xml"))
    assert failed
    assert [failure for failure in failed if not _uses(file).search(failure)] == []


def _failures(junit: Path) -> Iterator[str]:
    """The name of each test that failed, and with what message."""
    for case in ElementTree.parse(junit).iter("testcase"):
        for found in (*case.findall("failure"), *case.findall("error")):
            errors = [line for line in (found.text or "").splitlines() if line.startswith("E ")]
            yield "\n".join([f"{case.get('classname')}::{case.get('name')}", found.get("message", ""), *errors])


def _uses(file: str) -> re.Pattern[str]:
    """A test uses a file if its name or its failure names the file or, in quotes, one of its components."""
    stem = file.removesuffix(".py")
    made = [c for c in registry().describe() if c.plugin.name == f"components.{stem}"]
    names, pages = [re.escape(c.name) for c in made], "|".join(sorted({stem, *(c.kind for c in made)}))
    quoted = f"""['"`]({"|".join([stem, *names])})['"`]"""
    return re.compile(rf"\btest_{stem}\b|\[[^]]*\b{stem}\b|components[./]({pages})\b|{quoted}")
