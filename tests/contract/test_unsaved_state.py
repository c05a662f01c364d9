"""What was built and changes without `state_dict` is found, within what holds it, and named once."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rlhf_plugins import RankedScores, RewardLoss
from rlhf_plugins.contract.guards import Built
from rlhf_plugins.contract.unsaved_state import Looks, digest, stateless, unkept


class Counting:
    """Holds whatever a test changes."""

    def __init__(self) -> None:
        self.held: Any = 0

    def __call__(self, scores: RankedScores) -> Tensor:
        return scores.chosen


class Kept(Counting):
    def state_dict(self) -> dict[str, Any]:
        return {"held": self.held}


@dataclass(frozen=True)
class Counts(RewardLoss):
    def build(self) -> Counting:
        return Counting()


@dataclass(frozen=True)
class Keeps(RewardLoss):
    def build(self) -> Kept:
        return Kept()


@dataclass(frozen=True)
class Closes(RewardLoss):
    def build(self) -> Callable[[RankedScores], Tensor]:
        calls = [0]

        def act(scores: RankedScores) -> Tensor:
            calls[0] += 1
            return scores.chosen * 1.0

        return act


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "number": (lambda: 1, lambda _: 2),
    "list in a dict": (lambda: {"a": [1]}, lambda held: held["a"].append(2)),
    "tensor": (lambda: torch.zeros(3, dtype=torch.bfloat16), lambda held: held.add_(1)),
    "scalar tensor": (lambda: torch.zeros(()), lambda held: held.add_(1)),
    "array": (lambda: np.zeros(2), lambda held: held.fill(1)),
    "random": (lambda: random.Random(0), lambda held: held.random()),
    "numpy": (lambda: np.random.default_rng(0), lambda held: held.random()),
    "torch": (lambda: torch.Generator().manual_seed(0), lambda held: torch.rand(1, generator=held)),
    "object": (Counting, lambda held: setattr(held, "held", 5)),
}


@pytest.mark.parametrize(("make", "change"), CHANGES.values(), ids=CHANGES)
def test_whatever_it_holds_is_seen_to_change(make: Callable[[], Any], change: Callable[[Any], Any]) -> None:
    one = Counting()
    one.held = make()
    before = digest(one)
    assert digest(one) == before
    found = change(one.held)
    one.held = one.held if found is None or not isinstance(found, int) else found
    assert digest(one) != before


def test_weights_are_no_state_of_this_kind() -> None:
    one = Counting()
    one.held = nn.Linear(2, 1)
    before = digest(one)
    nn.init.zeros_(one.held.weight)
    assert digest(one) == before


def test_what_changes_is_named_once_and_found_in_what_holds_it() -> None:
    built, kept, looks = Counts().acting(), Keeps().acting(), Looks()
    parts = {"reward": lambda samples: (built, samples), "kept": [kept]}
    assert isinstance(built, Built)
    assert list(looks.changed(parts)) == []
    kept.acts.held = 1
    assert list(looks.changed(parts)) == []
    built.acts.held = 1
    assert list(looks.changed(parts)) == [built]
    built.acts.held = 2
    assert list(looks.changed(parts)) == []
    assert unkept(built).startswith("Counting of ")
    assert unkept(built).endswith("Add state_dict and load_state_dict to Counting")


def test_what_a_function_closes_over_changes_too() -> None:
    acts, looks = Closes().acting(), Looks()
    assert list(looks.changed(acts)) == []
    acts.acts(RankedScores.of(torch.zeros(1, 2), torch.zeros(1)))
    assert list(looks.changed(acts)) == [acts]
    assert unkept(acts).endswith("a class in the place of the function that Closes.build returns")


def test_circles_end() -> None:
    built = Counts().acting()
    built.acts.held = {"me": built.acts, "built": built}
    assert list(stateless([built, built])) == [built]
    assert digest(built.acts) == digest(built.acts)


class Odd:
    """What no digest can take as it is: a sparse tensor, and a method of a well-known name."""

    def __init__(self) -> None:
        self.sparse = torch.eye(2).to_sparse()

    def getstate(self, needed: int) -> int:
        return needed


def test_a_look_at_odd_objects_ends_no_training() -> None:
    odd = Odd()
    before = digest(odd)
    assert digest(odd) == before
    odd.sparse = torch.zeros(2, 2).to_sparse()
    assert digest(odd) != before
