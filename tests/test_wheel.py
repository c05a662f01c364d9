"""A wheel carries all that an installed package reads: recipes, policy, templates, the mark of typed code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in a wheel built now, without a network."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    with ZipFile(next(folder.glob("*.whl"))) as archive:
        return set(archive.namelist())


FOLDERS = {"rlhf_plugins": "rlhf_plugins", "recipes": "rlhf_plugins/recipes_data"}  # here -> in the wheel


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_wheel_has_every_file_of_the_folder(wheel: set[str], folder: str) -> None:
    files = [file for file in (ROOT / folder).rglob("*") if file.is_file() and file.suffix != ".pyc"]
    expected = {f"{FOLDERS[folder]}/" + file.relative_to(ROOT / folder).as_posix() for file in files}
    assert expected
    assert expected <= wheel


def test_a_wheel_has_the_licence_and_no_tests(wheel: set[str]) -> None:
    assert any(name.endswith("licenses/LICENSE") for name in wheel)
    assert not any(name.startswith("tests/") for name in wheel)
