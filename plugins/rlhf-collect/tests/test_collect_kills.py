"""A server that is killed while people judge loses nothing that it acknowledged. It runs the committed script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "bench" / "kills.py"


@pytest.mark.parametrize("kills", ["6", pytest.param("20", marks=pytest.mark.slow)])
def test_kills_lose_no_judgement_and_take_none_twice(kills: str) -> None:
    done = subprocess.run([sys.executable, SCRIPT, kills], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{kills} kills")
