"""`pytest` in an author's package runs the kit, and in everybody else's run it imports nothing of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from warm import Warm

PROJECT = '[project]\nname = "nobody"\n[project.entry-points.rlhf_plugins]\nmine = "mine"\n'
NO_MODULE_OF_OURS = """
import sys
def test_nothing_heavy():
    assert not {name for name in sys.modules if name.partition(".")[0] in ("rlhf_plugins", "torch", "numpy")}
"""
Run = Callable[..., subprocess.CompletedProcess[str]]
FOCAL = Path(__file__).parents[2] / "plugins" / "rlhf-focal"


@pytest.fixture
def run(python: Warm) -> Run:
    """pytest in a folder, as its author would start it, with our plugin installed or not."""
    return lambda folder, *words: python(*_pytest(), *words, cwd=folder, path=(FOCAL.parents[1],))


def _pytest() -> list[str]:
    installed = any(entry.value == "pytest_rlhf_plugins" for entry in entry_points(group="pytest11"))
    return ["-m", "pytest", "-p", "no:cacheprovider", *([] if installed else ["-p", "pytest_rlhf_plugins"])]


def test_another_packages_run_imports_nothing_of_ours(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n[tool.pytest.ini_options]\n')
    (tmp_path / "test_other.py").write_text(NO_MODULE_OF_OURS)
    environment = os.environ | {"PYTHONPATH": str(FOCAL.parents[1])}
    command = [sys.executable, *_pytest(), "-q", "-p", "no:hypothesispytest"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("ini", ["", '[tool.pytest.ini_options]\ntestpaths = ["tests"]\n'])
def test_a_package_that_is_not_installed_is_told_so(run: Run, tmp_path: Path, ini: str) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT + ini)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_own.py").write_text("def test_own(): ...\n")
    done = run(tmp_path, "-q")
    assert "nobody registers no component here: is it installed? (`pip install --editable .`)" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


@pytest.mark.slow
def test_every_component_and_property_of_a_package_is_an_item(run: Run) -> None:
    done = run(FOCAL, "-v", "pyproject.toml")
    assert "pyproject.toml::reward_loss::focal_bradley_terry::batch_mates PASSED" in done.stdout
    assert done.returncode == 0, done.stdout


def test_one_item_is_run_by_its_name(run: Run) -> None:
    done = run(FOCAL, "-q", "pyproject.toml::reward_loss.focal_bradley_terry.shape")
    assert "1 passed" in done.stdout
