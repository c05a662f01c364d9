"""The notebook docs/three_ways.ipynb runs from top to bottom, and its three trainings are equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "three_ways.ipynb"


@pytest.mark.slow
def test_a_session_a_recipe_and_a_script_train_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert len(names["by_script"]) == 6
    assert names["by_script"][-1] < names["by_script"][0]
