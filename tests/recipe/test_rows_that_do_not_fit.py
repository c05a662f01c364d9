"""Rows of a local file that loading refuses are refused by `rlhf check` in the same words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.contract.run import Base
from rlhf_plugins.data import local_file
from rlhf_plugins.errors import DataError, RecipeError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.recipe.check import check_recipe

GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}
ROWS: dict[str, list[dict[str, Any]]] = {
    "other columns": [{"question": "p", "good": "a", "bad": "b"}],
    "no prompt": [{"chosen": "yes", "rejected": "no"}],
    "nothing": [],
    "nothing useful": [{**GOOD, "rejected": "a"}],
}


def faults(tmp_path: Path, rows: list[dict[str, Any]], option: str = "source", **more: Any) -> list[str]:
    """What the check says of a recipe with these rows."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "good.jsonl").write_text(json.dumps(GOOD) + "\n")
    data = {"format": "preference", "source": str(tmp_path / "good.jsonl"), option: str(tmp_path / "rows.jsonl")}
    try:
        check_recipe({"base": "sandbox", "data": {**data, **more}, "stages": ["sft"]})
    except RecipeError as error:
        return [fault.path + ": " + fault.message for fault in error.faults]
    return []


@pytest.mark.parametrize("option", ["source", "test_source"])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_what_loading_refuses_is_refused_in_its_words(tmp_path: Path, rows: list[dict[str, Any]], option: str) -> None:
    (found,) = faults(tmp_path, rows, option)
    with pytest.raises(DataError) as refused:
        component("data_format", {"use": "preference", "source": str(tmp_path / "rows.jsonl")}).load(Base("sandbox"), 0)
    assert found == f"data.{option}: {refused.value}"


@pytest.mark.parametrize(("place", "found"), [(local_file.FIRST - 1, 1), (local_file.FIRST, 0)])
def test_of_a_large_file_the_first_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, found: int
) -> None:
    monkeypatch.setattr(local_file, "MAX_BYTES", 0)
    assert len(faults(tmp_path, [GOOD] * place + ROWS["other columns"])) == found


def test_what_only_the_first_rows_lack_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_file, "MAX_BYTES", 0)
    rows = [{"prompt": "p", "response": f"{i}", "score": i, "tone": i} for i in range(local_file.FIRST + 1)]
    for row in rows[:-1]:
        del row["tone"]
    assert not faults(tmp_path, rows, format="ratings", dimensions=["score", "tone"])
