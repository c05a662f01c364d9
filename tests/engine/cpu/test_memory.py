"""Memory that a training step freed is used by the next step, without a request to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from rlhf_plugins.engine import set_engine
from rlhf_plugins.engine.cpu import memory
from rlhf_plugins.engine.cpu.memory import keep_freed_memory_of_process

CPU = torch.device("cpu")
STEPS = """
import resource, torch
from rlhf_plugins.engine.cpu.memory import keep_freed_memory_of_process

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(2**21) for _ in range(16)]  # 8 MiB each, freed when this returns
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory_of_process(torch.device("cpu"))
print(faults(), faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(not keep_freed_memory_of_process(CPU), reason="the C library is not glibc")
def test_a_second_step_touches_no_new_page() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    first, second = map(int, done.stdout.split())
    assert first > 16 * 2**11 // 2  # most of its pages of 4 KiB, were none of them large
    assert second < first / 10


def test_on_another_device_and_with_the_plain_engine_the_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda *_: 1 // 0)
    assert not keep_freed_memory_of_process(torch.device("meta"))
    with set_engine("plain"):
        assert not keep_freed_memory_of_process(CPU)
