"""What a training freed is there for its next step, without asking the system for it again."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rlhf_plugins.trainers.freed import keep_freed

STEPS = """
import resource, torch
from rlhf_plugins.trainers.freed import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(2**21) for _ in range(16)]  # 8 MiB each, freed when this returns
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed()
print(faults(), faults())
"""


@pytest.mark.skipif(not keep_freed(), reason="the C library is not glibc")
def test_a_second_step_touches_no_new_page() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    first, second = map(int, done.stdout.split())
    assert first > 16 * 2**11 // 2  # most of its pages of 4 KiB, were none of them large
    assert second < first / 10
