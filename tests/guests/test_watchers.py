"""A guest's monitors change and stop a run, while another process reads the run as it is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins import RunError, run_recipe
from rlhf_plugins.testing import tiny_base

PLUGIN = Path(__file__).with_name("watchers.py")
READER = """
import json, sys
from rlhf_plugins import open_run
run = open_run(sys.argv[1], wait=200)
for kind, row in run.tail(poll=0.02, patience=200):
    print(json.dumps([kind, row, run.status == "running"]), flush=True)
"""


def recipe(folder: Path, *monitors: Any) -> dict[str, Any]:
    stage = {
        "stage": "online",
        "reward": "gold",
        "kl": {"coef": 0.4},
        "table": {"every": 1, "rows": 1},
        "trainer": {"max_steps": 6, "per_device_train_batch_size": 8, "num_generations": 4, "logging_steps": 1,
                    "max_completion_length": 4},
    }  # fmt: skip
    top = {"base": str(folder / "base"), "data": {"format": "sandbox", "prompts": 64}, "plugins": [str(PLUGIN)]}
    return {**top, "monitors": list(monitors), "stages": [stage], "output_dir": str(folder / "run")}


@pytest.fixture
def rows(tmp_path: Path) -> list[list[Any]]:
    """What a reader in another process printed of a run that a monitor stopped."""
    tiny_base(tmp_path / "base")
    words = [sys.executable, "-c", READER, str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as reader:
        try:
            with pytest.raises(RunError, match="step 4: seen enough"):
                run_recipe(recipe(tmp_path, {"use": "loosen", "floor": 1e9}, "stop_at"))
            printed = reader.communicate(timeout=60)[0]
        finally:
            reader.kill()
    return [json.loads(line) for line in printed.splitlines()]


@pytest.mark.slow
def test_the_kl_coefficient_is_halved_and_the_run_stopped_beside_a_reader(
    rows: list[list[Any]], tmp_path: Path
) -> None:
    coefs = [row["kl_coef"] for kind, row, _ in rows if kind == "metrics" and "kl_coef" in row]
    assert coefs == pytest.approx([0.4, 0.2, 0.1, 0.05])
    alarms = [(row["step"], row["monitor"]) for kind, row, _ in rows if kind == "alarms"]
    assert alarms == [*((step, "loosen") for step in range(5)), (4, "stop_at")]
    assert [row["step"] for kind, row, _ in rows if kind == "samples"] == [0, 1, 2, 3, 4]
    assert any(running for kind, _, running in rows if kind == "metrics")  # it read while the run was written
    heard = [json.loads(line) for line in (tmp_path / "run" / "heard.jsonl").read_text().splitlines()]
    responses = [row["response"] for kind, row, _ in rows if kind == "samples"]
    assert heard == [["online", step, [response]] for step, response in enumerate(responses)]
