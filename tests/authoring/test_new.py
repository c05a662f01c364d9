"""A new package of each kind holds in the kit and runs in its recipe as it is written, in under 30 lines."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from rlhf_plugins import PluginError, registry, run_recipe
from rlhf_plugins.authoring.new import STAGES, kinds, new
from rlhf_plugins.recipe.check import load_recipe
from rlhf_plugins.registry.registry import KINDS
from rlhf_plugins.testing import check

TRIED = ("reward_loss", "reward", "stage")  # by `make test`; the others by `make bench`
Package = Callable[[str], Path]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Writes a package of a kind and makes its folder the working directory."""

    def write(kind: str) -> Path:
        new("rlhf-my-own", kind, tmp_path)
        monkeypatch.chdir(tmp_path / "rlhf-my-own")
        return tmp_path / "rlhf-my-own" / "rlhf_my_own.py"

    return write


def test_a_package_can_be_started_for_every_kind() -> None:
    assert set(KINDS) <= set(kinds(registry()))  # and the kinds of packages


@pytest.mark.parametrize(
    "kind", [kind if kind in TRIED else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_a_new_component_is_short_and_the_kit_finds_no_fault(kind: str, package: Package) -> None:
    module = package(kind)
    assert len(module.read_text().splitlines()) < 30
    cls = registry().with_files([module]).get(kind, "my_own")
    found = check(cls, kind, {"source": "rows.txt"} if kind == "data_format" else {})
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("kind", STAGES)
def test_its_recipe_is_sound(kind: str, package: Package) -> None:
    used = load_recipe("recipe.yaml", [f"plugins=[{package(kind).name}]"])
    plugins = {found.plugin.name for found in used.registry.describe() if found.name == "my_own"}
    assert plugins == {"rlhf_my_own.py"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STAGES)
def test_its_recipe_runs(kind: str, package: Package) -> None:
    made = run_recipe("recipe.yaml", [f"plugins=[{package(kind).name}]"], say=lambda _: None)
    assert "rlhf_my_own.py" in {plugin.name for plugin in made.report.plugins}


def test_new_packages_are_written_in_our_own_style(tmp_path: Path) -> None:
    for kind in KINDS:
        new(f"rlhf-own-{kind.replace('_', '-')}", kind, tmp_path)
    for words in (
        ["check", "--isolated", "--select", "E,F,UP,B", "--line-length", "120"],
        ["format", "--isolated", "--line-length", "120", "--check"],
    ):
        command = [sys.executable, "-m", "ruff", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


REFUSED = [
    ("My Loss", "reward_loss", "'My Loss' is no name of a package"),
    ("rlhf-mine", "reward_los", r"unknown component kind 'reward_los' \(did you mean reward_loss\?"),
    ("there", "pooling", "there exists; give another name"),
    ("rlhf-mean", "pooling", "a pooling 'mean' exists already"),
    ("torch", "reward_loss", "a module 'torch' exists already"),
    ("rlhf-field", "reward_loss", "its class 'Field' would hide a name it needs"),
]


@pytest.mark.parametrize(("name", "kind", "message"), REFUSED)
def test_what_will_not_do_is_refused_and_nothing_is_written(name: str, kind: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(PluginError, match=message):
        new(name, kind, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_the_command_names_the_files_and_what_comes_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from rlhf_plugins.cli.app import app

    monkeypatch.chdir(tmp_path)
    result: Result = CliRunner().invoke(app, ["plugins", "new", "rlhf-mine", "--kind", "metric"])
    assert result.exit_code == 0
    *files, last = result.stdout.splitlines()
    assert all(Path(file).is_file() for file in files)
    assert last == "next: cd rlhf-mine; pip install --editable .; pytest; rlhf run recipe.yaml"
