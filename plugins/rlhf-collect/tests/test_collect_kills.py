"""A server that is killed while people judge loses nothing that it acknowledged. It runs the committed script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "bench" / "kills.py"


def test_20_kills_lose_no_judgement_and_take_none_twice() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "20"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("20 kills")
