"""The check of a machine with several GPUs runs with two gloo processes too, so that it is ready where there is one."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[2] / "benchmarks" / "multi_gpu_check.py")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_on_a_cpu_pass_the_check(tmp_path: Path) -> None:
    words = [sys.executable, SCRIPT, "--processes", "2", "--steps", "4", "--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "all as it should be" in done.stdout
    for way in ("zero2", "zero3") if find_spec("deepspeed") else ():
        assert f"{way}: sft, reward_model, dpo, ipo are compared" in done.stdout
