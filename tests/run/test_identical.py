"""Two runs of one recipe are the same in every file, whatever the seed of Python's hashes; only times differ."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf_plugins.testing import tiny_base

RECIPE = """\
base: base
adapter: {r: 2}
data: {format: preference, source: pairs.jsonl}
stages:
  - {stage: reward_model, trainer: {max_steps: 1}}
  - {stage: preference, trainer: {max_steps: 1}}
"""
TIMED = {"result.json", "status.json", "report.json", "report.html", "recipe.yaml"}


def result(file: Path) -> Any:
    """What a stage left, but for what it took."""
    return {name: value for name, value in json.loads(file.read_text()).items() if name != "cost"}


@pytest.mark.slow
def test_two_runs_leave_the_same_files(tmp_path: Path) -> None:
    tiny_base(tmp_path / "base")
    rows = [{"prompt": f"p{i} ", "chosen": "ant", "rejected": "gas"} for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.yaml").write_text(RECIPE)
    for seed in "12":
        command = [sys.executable, "-m", "rlhf_plugins.cli", "run", "r.yaml"]
        subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONHASHSEED": seed}, check=True)
        (tmp_path / "runs").rename(tmp_path / seed)
    one, two = ({f.relative_to(at): f for f in at.rglob("*") if f.is_file()} for at in (tmp_path / "1", tmp_path / "2"))
    assert one.keys() == two.keys()
    assert [
        str(name) for name in one if name.name not in TIMED and one[name].read_bytes() != two[name].read_bytes()
    ] == []
    assert [str(name) for name in one if name.name == "result.json" and result(one[name]) != result(two[name])] == []
