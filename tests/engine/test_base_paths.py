"""Where a saved model notes its base, and where that is found after a run or the package has moved."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_plugins.engine.weights import base_paths
from rlhf_plugins.sandbox import POLICY


def test_the_sandbox_is_noted_by_its_place_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = base_paths.path_to_note(str(POLICY), tmp_path)
    assert written == "rlhf_plugins:sandbox/policy"
    monkeypatch.setattr(base_paths, "PACKAGE", tmp_path / "elsewhere" / "rlhf_plugins")
    assert Path(base_paths.noted_path(written, tmp_path)) == tmp_path / "elsewhere/rlhf_plugins/sandbox/policy"


@pytest.mark.parametrize("inner", [".", "base"])
def test_a_base_in_its_own_folder_moves_with_it(inner: str, tmp_path: Path) -> None:
    (tmp_path / "run/model/base").mkdir(parents=True)
    folder = tmp_path / "run/model"
    written = base_paths.path_to_note(str(folder / inner), folder, tmp_path / "run")
    moved = (tmp_path / "run").rename(tmp_path / "moved") / "model"
    assert Path(base_paths.noted_path(written, moved)) == moved / inner


def test_a_name_of_the_hub_is_no_folder_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert base_paths.path_to_note("org/name", tmp_path / "model", tmp_path) == "org/name"


@pytest.mark.parametrize("path", ["../01-sft/model", "org/name"])
def test_a_base_in_the_run_and_one_of_the_hub_come_back(path: str, tmp_path: Path) -> None:
    (tmp_path / "run/01-sft/model").mkdir(parents=True)
    folder = tmp_path / "run" / "02-dpo"
    base = str((folder / path).resolve()) if path.startswith("..") else path
    written = base_paths.path_to_note(base, folder, tmp_path / "run")
    assert (written, base_paths.noted_path(written, folder)) == (path, base)
