"""Two fifths of `benchmarks/memory_slope.py`: a long online training does not grow."""

from __future__ import annotations

from pathlib import Path

import pytest
from warm import Warm

SCRIPT = str(Path(__file__).parents[2] / "benchmarks" / "memory_slope.py")


@pytest.mark.slow
def test_memory_stays_level(python: Warm) -> None:
    done = python(SCRIPT, "200")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
