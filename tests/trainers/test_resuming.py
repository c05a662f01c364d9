"""Random numbers of the processes of a training that goes on, also of those that were not there before."""

from __future__ import annotations

import pytest
import torch

from rlhf_plugins.contract import processes
from rlhf_plugins.trainers.resuming import Resumable, State, random_state


class Training(Resumable):
    """What knows what it goes on from, and no more."""

    def __init__(self, resumed: State, draws_apart: bool) -> None:
        self.resumed, self.draws_apart = resumed, draws_apart


def drawn(monkeypatch: pytest.MonkeyPatch, index: int, resumed: State, draws_apart: bool) -> float:
    """The first number of a process after it went on."""
    monkeypatch.setattr(processes, "index", lambda: index)
    Training(resumed, draws_apart)._load_rng_state("")
    return float(torch.rand(()))


def seeded(seed: int) -> tuple[State, float]:
    """A random state, and the first number that comes of it."""
    torch.manual_seed(seed)
    state = random_state()
    return state, float(torch.rand(()))


def test_processes_that_were_not_there_draw_numbers_that_are_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    (first, one), (second, two) = seeded(1), seeded(2)
    resumed = {"random": first, "others": [second]}
    found = [drawn(monkeypatch, index, resumed, True) for index in range(4)]
    assert found[:2] == [one, two]
    assert len(set(found)) == 4
    assert found == [drawn(monkeypatch, index, resumed, True) for index in range(4)]


def test_processes_whose_numbers_are_the_same_go_on_with_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    first, one = seeded(1)
    resumed = {"random": first, "others": []}
    assert [drawn(monkeypatch, index, resumed, False) for index in range(3)] == [one] * 3
