"""Trains N tiny online steps and says how much memory the process gains a step, after the first 50.

    python benchmarks/memory_slope.py 500

Exit code 1 where it is 50 KB or more.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from rlhf_plugins import Adapter, Step, session
from rlhf_plugins.testing import tiny_base, tiny_run

FIRST, MOST = 50, 50_000  # steps that warm up; bytes a step
ROLLOUTS = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 8,
    "logging_steps": 1,
    "disable_tqdm": True,
}


def sizes(steps: int, folder: Path) -> list[int]:
    """Bytes of the process after each step of an online training."""
    base = replace(tiny_base(folder / "base"), adapter=Adapter(r=2))
    run = session(base, tiny_run(base, folder / "rows").data, folder / "run")
    process, found = psutil.Process(), list[int]()

    def seen(step: Step) -> bool:
        found.append(process.memory_info().rss)
        return False

    stage = {"use": "online", "reward": "gold", "trainer": {**ROLLOUTS, "max_steps": steps}}
    run.train(stage, name="ppo", until=seen)
    return found


def slope(found: list[int]) -> float:
    """Bytes a step, by least squares over the steps after the first ones."""
    steady = found[FIRST:]
    return float(np.polyfit(np.arange(len(steady)), steady, 1)[0])


def main(steps: int) -> int:
    """Prints the slope. Returns the exit code."""
    with TemporaryDirectory(prefix="memory-slope-") as folder:
        found = sizes(steps, Path(folder))
    grown = slope(found)
    print(f"{len(found)} steps, {found[-1] / 2**20:.0f} MiB at the end, {grown / 1000:.1f} KB a step after {FIRST}")
    return int(grown >= MOST)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
