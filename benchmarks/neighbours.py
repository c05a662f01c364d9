"""Times a PPO step of the quickstart alone and beside busy processes, and says how many times longer it takes.

    python benchmarks/neighbours.py [BUSY [STEPS]]

BUSY processes that compute without a pause, one for each core when left out; STEPS optimizer steps, 24 by default. Exit
code 1 where a step takes more than three times as long as alone.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from rlhf_plugins.cli.threads import wait_asleep

MOST = 3.0
QUICKSTART = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
SPIN = "while True: pass"


def times(steps: int) -> list[float]:
    """Seconds of each step, the mean over those of one rollout; of this process, which trains."""
    from rlhf_plugins import Adapter, Base, Step, session

    recipe: dict[str, Any] = yaml.safe_load(QUICKSTART.read_text())
    words = next(stage for stage in recipe["stages"] if stage["stage"] == "online")
    trainer = {**words["trainer"], "max_steps": steps, "logging_steps": 4, "disable_tqdm": True}  # 4 steps a rollout
    stage = {"use": "online", "reward": "gold", "kl": words["kl"], "trainer": trainer}
    ends: list[float] = []

    def seen(step: Step) -> bool:
        ends.append(time.perf_counter())
        return False

    with TemporaryDirectory(prefix="neighbours-") as folder:
        run = session(Base("sandbox", adapter=Adapter(**recipe["adapter"])), {"use": "sandbox"}, Path(folder) / "run")
        run.train(stage, name="ppo", until=seen)
    return [(end - begin) / 4 for begin, end in zip(ends, ends[1:], strict=False)]


@contextmanager
def busy(count: int) -> Iterator[None]:
    """For the block, so many processes keep a core busy each."""
    started = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def median(steps: int) -> float:
    """Seconds of a step in a process of its own, as `rlhf run` starts one."""
    done = subprocess.run(
        [sys.executable, __file__, "--times", str(steps)], capture_output=True, text=True, check=True, env=os.environ
    )
    return statistics.median(json.loads(done.stdout.splitlines()[-1]))


def main(count: int, steps: int) -> int:
    """Prints both times. Returns the exit code."""
    wait_asleep()  # in the environment of the processes that train
    alone = median(steps)
    with busy(count):
        beside = median(steps)
    words = f"{alone:.3f} s alone, {beside:.3f} s beside {count} busy processes on {os.cpu_count()} cores"
    print(f"a PPO step of the quickstart: {words}, {beside / alone:.1f} times as long")
    return int(beside > MOST * alone)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--times"]:
        print(json.dumps(times(int(sys.argv[2]))))
    else:
        given = [int(word) for word in sys.argv[1:]]
        sys.exit(main(*(given + [os.cpu_count() or 1, 24][len(given) :])))
