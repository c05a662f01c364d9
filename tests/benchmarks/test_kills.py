"""A small part of `benchmarks/kills.py`: runs that are killed at random moments leave what undisturbed ones leave."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[2] / "benchmarks" / "kills.py")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
def test_killed_runs_leave_the_same() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "10"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
