"""Some inputs of `benchmarks/fuzz.py`: damaged recipes and data files are read, or refused by a clear message."""

from __future__ import annotations

from pathlib import Path

import pytest
from marks import slow
from warm import Warm

SCRIPT = str(Path(__file__).parents[2] / "benchmarks" / "fuzz.py")


@pytest.mark.parametrize(("what", "count"), [("data", 40), *slow(("recipes", 40))])
def test_damaged_inputs_are_read_or_refused(python: Warm, what: str, count: int) -> None:
    done = python(SCRIPT, what, str(count))
    assert (done.returncode, "; 0 faults" in done.stdout) == (0, True), done.stdout[-3000:] + done.stderr[-2000:]
