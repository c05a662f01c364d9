"""The reward that a DPO policy implies: a row of the table, best-of-n, `rlhf score`; PPO is in run/test_costs.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlhf_plugins import RunRecord, open_run, run_recipe
from rlhf_plugins.cli.app import app
from rlhf_plugins.testing import tiny_base

TRAINER = {"max_steps": 1, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "disable_tqdm": True}
DPO = {"stage": "preference", "name": "dpo", "trainer": TRAINER}
IMPLICIT = {"use": "implicit", "policy": "dpo"}
DATA = {"format": "sandbox", "writer": "sloppy", "prompts": 4, "test_prompts": 4}


def recipe(*stages: dict[str, Any], base: str = "sandbox") -> dict[str, Any]:
    return {"base": base, "adapter": {"r": 2}, "data": DATA, "stages": list(stages)}


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    folder = tmp_path_factory.mktemp("named")
    named = {"stage": "named_reward", "name": "implied", "reward": IMPLICIT}
    again = {
        "stage": "named_reward",
        "name": "doubled",
        "reward": {"use": "weighted", "parts": ["model"], "weights": [2.0]},
    }
    evaluate = {"stage": "evaluate", "prompts": 4, "best_of": 2, "ceiling": 2, "max_new_tokens": 4}
    stages = (DPO, named, again, {"stage": "evaluate_reward", "metrics": ["accuracy"]}, evaluate)
    made = run_recipe(
        {**recipe(*stages, base=tiny_base(folder / "base").path), "output_dir": str(folder / "run")}, say=str
    )
    return open_run(made.folder)


def test_it_is_a_row_of_the_table_of_reward_models_and_a_model_for_later_rewards(record: RunRecord) -> None:
    rows = record.report.reward_models
    assert set(rows) == {"implied", "doubled"}
    assert rows["implied"].accuracy == rows["doubled"].accuracy  # twice the same reward, not itself without end


def test_best_of_n_chooses_by_it(record: RunRecord) -> None:
    assert "best-of-2" in record.report.policies


def test_rows_are_scored_with_it(record: RunRecord, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "how is ", "responses": ["ant", "gas"]}\n')
    scored = []
    for name in ("implied", "doubled"):
        out = tmp_path / f"{name}.jsonl"
        done = CliRunner().invoke(app, ["score", f"{record.folder}#{name}", str(rows), "--out", str(out)])
        assert done.exit_code == 0, done.output
        scored.append(json.loads(out.read_text())["rewards"])
    assert scored[1] == pytest.approx([2 * reward for reward in scored[0]])
