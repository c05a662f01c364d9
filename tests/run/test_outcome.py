"""What the terminal says of a finished stage: the rows that it left out, before its time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import open_run, run_recipe
from rlhf_plugins.contract.metrics import curve
from rlhf_plugins.contract.run import Cost, ReportParts, StageResult
from rlhf_plugins.run.stage.perform import outcome
from rlhf_plugins.testing import tiny_base

TIED = [True, False, False, True, False, False]
LOSSES = {"dpo": "nothing left to compare", "kto": "no label and no preferred response"}


def rows_of(folder: Path, ties: list[bool]) -> str:
    rows = [
        {"prompt": f"who {place} ", "response_a": "ant", "response_b": "bee", "label": "tie" if tied else "a"}
        for place, tied in enumerate(ties, len(ties))
    ]
    path = folder / f"{len(ties)}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def recipe(folder: Path, stage: dict[str, Any]) -> dict[str, Any]:
    return {
        "base": tiny_base(folder / "base").path,
        "data": {"format": "comparisons", "source": rows_of(folder, TIED), "test_source": rows_of(folder, [False])},
        "stages": [{"trainer": {"max_steps": 1}, **stage}],
        "output_dir": str(folder / "run"),
    }


@pytest.mark.parametrize(("loss", "reason"), LOSSES.items())
def test_ties_that_a_policy_cannot_learn_from_are_counted_and_said(loss: str, reason: str, tmp_path: Path) -> None:
    lines = list[str]()
    made = run_recipe(recipe(tmp_path, {"stage": "preference", "loss": loss}), say=lines.append)
    (result,) = open_run(made.folder).finished
    assert {why: count for why, count in result.report.left_out.items() if count} == {reason: 2}
    assert made.report.data.dropped == {f"preference: {reason}": 2}
    assert f"[1/1] preference: left out or cut: 2 x {reason}" in lines
    assert lines[-1].startswith("[1/1] preference: finished in ")


def test_a_stage_that_left_nothing_out_says_its_time_alone() -> None:
    curves = {"loss": curve("loss", [(1, 0.5), (2, None)])}
    result = StageResult(cost=Cost(seconds=2, peak_bytes=2**30), curves=curves)
    last = "finished in 2.0 s, peak memory 1.00 GiB, loss 0.5"
    assert list(outcome(result)) == [last]
    left_out = ReportParts(left_out={"longer": 3, "cut at max_length": 0, "even": 1})
    lost = StageResult(cost=result.cost, curves=curves, report=left_out)
    assert list(outcome(lost)) == ["left out or cut: 3 x longer, 1 x even", last]


@pytest.mark.parametrize(("loss", "said"), [("dpo_margin", 1), ("dpo", 0)])
def test_negative_margins_that_a_loss_reads_are_noted(loss: str, said: int, tmp_path: Path) -> None:
    row = {"chosen": "ant", "rejected": "bee"}
    rows = [{**row, "prompt": f"who {'is ' * place}", "margin": margin} for place, margin in enumerate([1, -1, 0.5])]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text(json.dumps({**row, "prompt": "why "}) + "\n")
    sources = {name: str(tmp_path / file) for name, file in (("source", "rows.jsonl"), ("test_source", "test.jsonl"))}
    written = recipe(tmp_path, {"stage": "preference", "loss": loss})
    made = run_recipe({**written, "data": {"format": "preference", **sources}}, say=lambda _: None)
    (result,) = open_run(made.folder).finished
    noted = [note for note in result.report.notes if note.startswith("Of its training rows 1 of 3 margins are neg")]
    assert len(noted) == said
