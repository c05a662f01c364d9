"""A loss that compares rows is given those of all processes, and gradients go back to whose rows they are of."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_plugins.arithmetic.ranking import per_group
from rlhf_plugins.components.preference_loss import KTO
from rlhf_plugins.components.reward_loss import Contrastive
from rlhf_plugins.contract import processes
from rlhf_plugins.contract.records import PairLogps, Prediction, RankedScores
from rlhf_plugins.data.batches.ranked import judged
from rlhf_plugins.trainers.steps.batch_mates import with_mates
from rlhf_plugins.trainers.steps.recovery import ROWS

Task = Callable[[], Any]


class Threads:
    """Threads in the place of processes: each has a place, and all wait for one another where they exchange values."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count)
        self.places = threading.local()
        self.given: list[Any] = [None] * count

    def index(self) -> int:
        return self.places.value

    def gathered(self, value: Any) -> list[Any]:
        self.given[self.index()] = value
        self.barrier.wait(20)
        found = list(self.given)
        self.barrier.wait(20)
        return found

    def run(self, tasks: list[Task]) -> list[Any]:
        def start(place: int, task: Task) -> Any:
            self.places.value = place
            return task()

        with ThreadPoolExecutor(len(tasks)) as pool:
            return [each.result() for each in [pool.submit(start, *one) for one in enumerate(tasks)]]


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    found = Threads(3)
    monkeypatch.setattr(processes, "count", lambda: 3)
    monkeypatch.setattr(processes, "index", found.index)
    monkeypatch.setattr(processes, "gathered", found.gathered)
    monkeypatch.setattr(processes, "total", lambda value: torch.stack(found.gathered(value)).sum(0))
    return found


def logps(values: Tensor) -> PairLogps:
    return PairLogps.of(*values.unbind(1), *torch.ones(2, len(values)))


def compared(record: PairLogps) -> Tensor:
    """A loss of which each row's number depends on the others, in what has gradients too."""
    margins = record.chosen - record.rejected
    return (margins - margins.mean()) ** 2 + margins.cumsum(0).exp()


@pytest.mark.parametrize("loss", [KTO(), compared])
def test_losses_and_gradients_are_those_of_the_whole_batch(threads: Threads, loss: Callable[..., Tensor]) -> None:
    values = torch.randn(5, 4, dtype=torch.float64)
    whole = values.clone().requires_grad_()
    losses = loss(logps(whole))
    losses.mean().backward()
    assert whole.grad is not None

    def of_share(start: int, end: int) -> Task:
        def compute() -> tuple[Tensor, Tensor]:
            own = values[start : max(end, start + 1)].clone().requires_grad_()
            known, kept = with_mates(logps(own), {ROWS: end - start})
            found = loss(known)[kept]
            (found.sum() * (end > start) / len(values)).backward()
            assert own.grad is not None
            return found.detach(), own.grad

        return compute

    first, second, none = threads.run([of_share(0, 3), of_share(3, 5), of_share(4, 4)])
    torch.testing.assert_close(torch.cat([first[0], second[0]]), losses.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat([first[1], second[1]]), whole.grad, rtol=0, atol=1e-12)
    assert len(none[0]) == 1
    assert not none[1].any()


def inputs(sizes: list[int], pairs: list[tuple[int, int, int]]) -> dict[str, Tensor]:
    """Groups of so many responses, ranked in order, with their pairs (group, better, worse) and one rated dimension."""
    most = max(sizes)
    ranks = torch.tensor([[place if place < size else -1 for place in range(most)] for size in sizes])
    return {
        "group": torch.cat([torch.full((size,), row) for row, size in enumerate(sizes)]),
        "ranks": ranks,
        "ratings": torch.where(ranks < 0, torch.nan, 1.0).unsqueeze(2),
        "compared": torch.tensor([[*pair, 0, 0, 1, 1] for pair in pairs], dtype=torch.float32),
        "margin": torch.zeros(len(sizes)),
        "weight": torch.ones(len(sizes)),
        "topic": torch.arange(len(sizes)),
    }


def test_groups_of_several_sizes_are_joined_as_the_whole_batch_has_them(threads: Threads) -> None:
    rewards = torch.randn(9, dtype=torch.float64)
    features = torch.randn(9, 3, dtype=torch.float64)

    def scores(responses: slice, batch: dict[str, Tensor]) -> RankedScores:
        prediction = Prediction(
            rewards[responses], dimensions={"clear": rewards[responses]}, features=features[responses]
        )
        return judged(prediction, batch, ["clear"])

    shares = [
        (slice(0, 4), inputs([2, 2], [(0, 0, 1), (1, 0, 1)])),
        (slice(4, 7), inputs([3], [(0, 0, 2), (0, 1, 2)])),
        (slice(7, 9), inputs([2], [(0, 0, 1)])),
    ]
    every = [(0, 0, 1), (1, 0, 1), (2, 0, 2), (2, 1, 2), (3, 0, 1)]
    whole = scores(slice(0, 9), inputs([2, 2, 3, 2], every))

    def of_share(responses: slice, batch: dict[str, Tensor]) -> Task:
        return lambda: with_mates(scores(responses, batch), {ROWS: len(batch["ranks"])})

    found = threads.run([of_share(*share) for share in shares])
    assert [own for _, own in found] == [slice(0, 2), slice(2, 3), slice(3, 4)]
    for known, _ in found:
        for name in ("scores", "ranks", "present", "margin", "weight", "probability"):
            torch.testing.assert_close(getattr(known, name), getattr(whole, name), rtol=0, atol=0)
        torch.testing.assert_close(known.ratings["clear"], whole.ratings["clear"], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(known.prediction.features, whole.prediction.features, rtol=0, atol=0)
        torch.testing.assert_close(vars(known.compared), vars(whole.compared), rtol=0, atol=0)
        torch.testing.assert_close(per_group(Contrastive(), known), per_group(Contrastive(), whole), rtol=0, atol=1e-12)


def test_one_process_keeps_its_rows() -> None:
    record = logps(torch.randn(2, 4))
    assert with_mates(record, {}) == (record, slice(None))
