"""A tenth of `benchmarks/signals.py`: a run that a signal ends leaves everything in order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[2] / "benchmarks" / "signals.py")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
def test_signals_end_runs_in_order() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "4"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
