"""The peak of memory is that of the whole block, with what is measured inside it."""

from __future__ import annotations

import pytest
import torch

from rlhf_plugins.run.memory import PeakMemory, of_gpu


def test_a_part_does_not_lose_the_peak_of_what_is_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = [0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peak[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peak.__setitem__(0, 1))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 12)
    with PeakMemory() as outer:
        peak[0] = 9
        with PeakMemory() as first:
            peak[0] = 4
            assert of_gpu() == {"reserved": 12, "peak": 9}
        with PeakMemory() as second:
            peak[0] = 3
    assert (outer.bytes, first.bytes, second.bytes) == (9, 4, 3)
