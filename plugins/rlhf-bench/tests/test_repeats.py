"""The same seed gives the same table, also where the command was killed and went on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rlhf_bench.runs import folder_of
from rlhf_bench.suite import read

Write = Callable[..., Path]
MACHINE = ("seconds", "tokens_per_second", "peak_bytes")
TRAINER = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1}
ONLINE = {**TRAINER, "num_generations": 2, "max_completion_length": 4}
ALGORITHMS = {
    "dpo": {"stages": [{"stage": "preference", "name": "dpo", "trainer": TRAINER}]},
    "ppo": {"stages": [{"stage": "online", "name": "ppo", "reward": "gold", "trainer": ONLINE}]},
}


def command(file: Path, root: Path) -> list[str]:
    return [sys.executable, "-m", "rlhf_plugins.cli", "bench", str(file), "--runs", str(root)]


def ran(file: Path, root: Path) -> str:
    return subprocess.run(command(file, root), capture_output=True, text=True, check=True).stdout


def killed(file: Path, root: Path, sign: Path) -> None:
    """Starts the command, and kills it once there is a file."""
    with subprocess.Popen(command(file, root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while not sign.exists():
                assert process.poll() is None, "it ended by itself"
                time.sleep(0.01)
        finally:
            process.kill()


def rows(root: Path) -> list[dict[str, Any]]:
    """All that was measured and does not depend on the clock."""
    found = json.loads((root / "small" / "bench.json").read_text())["runs"]
    return [{name: value for name, value in row.items() if name not in MACHINE} for row in found]


def times(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
@pytest.mark.timeout(900)  # of four processes
def test_a_killed_suite_goes_on_and_its_table_is_that_of_another_undisturbed_one(suite: Write, tmp_path: Path) -> None:
    file, root = suite(algorithms=ALGORITHMS, seeds=[1]), tmp_path / "killed"
    first, second = (folder_of(root, cell) for cell in read(file).cells)
    killed(file, root, first)  # before anything is finished
    killed(file, root, second)  # the first run is finished
    finished = times(first)
    text = ran(file, root)
    assert "2 runs, 1 of them there" in text
    assert times(first) == finished
    ran(file, tmp_path / "undisturbed")
    assert rows(root) == rows(tmp_path / "undisturbed")
    assert [row["kl"] > 0 for row in rows(root)] == [True, True]  # both were trained
