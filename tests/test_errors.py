"""Messages about what is missing end in the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_plugins import RunError, nearest, nearest_path, open_run


def test_an_unknown_name_is_answered_by_the_nearest_and_all() -> None:
    assert nearest("frist", ["second", "first"]) == "(did you mean first? known: first, second)"
    assert nearest(7, [1, "b"]) == "(known: 1, b)"
    assert nearest("a", []) == "(known: none)"


def test_a_missing_path_is_answered_by_the_nearest_that_may_be_meant(tmp_path: Path) -> None:
    (tmp_path / "rows.json").touch()
    (tmp_path / "row").mkdir()
    assert nearest_path(tmp_path / "rows.jsn") == f" (did you mean {tmp_path / 'rows.json'}?)"
    assert nearest_path(str(tmp_path / "rows"), Path.is_dir) == f" (did you mean {tmp_path / 'row'}?)"
    assert nearest_path(tmp_path / "else" / "rows") == nearest_path(tmp_path / "other") == ""


def test_a_run_that_is_not_there_is_answered_by_the_nearest_run(tmp_path: Path) -> None:
    run = tmp_path / "first"
    run.mkdir()
    (run / "recipe.yaml").write_text("stages: []\n")
    (run / "status.json").write_text('{"status": "finished"}')
    (tmp_path / "frst").mkdir()
    with pytest.raises(RunError, match=f"did you mean {run}"):
        open_run(tmp_path / "frist")
