"""Shares of a batch: every row is in one of them, and their weighted means are the mean of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import strategies as st

from rlhf_plugins.contract import processes
from rlhf_plugins.trainers.ppo import in_parts
from rlhf_plugins.trainers.steps.data_parallel import ROWS, Share, through
from rlhf_plugins.trainers.steps.recovery import KEPT, SHARE


@drawn(st.integers(0, 50), st.integers(1, 9))
def test_parts_hold_every_row_once_and_are_nearly_equal(rows: int, parts: int) -> None:
    found = [list(range(rows))[processes.part(rows, place, parts)] for place in range(parts)]
    assert processes.joined(found) == list(range(rows))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def collate(rows: Sequence[float]) -> dict[str, Any]:
    return {"rows of it": list(rows), KEPT: None}


@drawn(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.integers(1, 4))
def test_the_mean_over_processes_of_weighted_means_is_the_mean_over_rows(rows: list[float], count: int) -> None:
    batches = [Share(collate, place, count)(rows) for place in range(count)]
    means = [float(one[SHARE]) * sum(one["rows of it"]) / len(one["rows of it"]) for one in batches]
    assert sum(means) / count == pytest.approx(sum(rows) / len(rows), abs=1e-5)
    assert sum(one[ROWS] for one in batches) == len(rows)


def test_weights_of_an_uneven_batch_by_hand() -> None:
    # three rows in two processes: two thirds and one third of the batch, times two processes
    found = [float(Share(collate, place, 2)([1.0, 2.0, 3.0])[SHARE]) for place in (0, 1)]
    assert found == pytest.approx([4 / 3, 2 / 3])


def test_a_process_without_rows_computes_one_that_counts_nothing() -> None:
    batch = Share(collate, 1, 2)([1.0])
    assert (batch["rows of it"], float(batch[SHARE]), batch[ROWS]) == ([1.0], 0.0, 0)


def test_labels_of_a_batch_that_counts_nothing_are_ignored() -> None:
    batch = Share(lambda rows: {"labels": torch.tensor(rows)}, 1, 2)([[5, 6]])
    assert batch["labels"].tolist() == [[-100, -100]]


class Wrapper(torch.nn.Module):
    """Counts its passes, as what averages gradients sees them."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module, self.passes = module, 0

    def forward(self, *given: Any) -> Any:
        self.passes += 1
        return self.module(*given)


def test_a_computation_is_the_one_pass_of_what_wraps_the_model() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    wrapper = Wrapper(model)
    found = through(wrapper, model, lambda: model(torch.ones(1, 2)) + model(torch.ones(1, 2)))
    torch.testing.assert_close(found, 2 * model(torch.ones(1, 2)))
    assert wrapper.passes == 1
    assert "forward" not in vars(model)
    assert through(model, model, lambda: 3) == 3


def test_a_process_that_has_no_prompt_generates_for_another_and_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def generate(prompts: list[str]) -> Any:
        given.append((prompts, found.accelerator.gather(torch.ones(len(prompts))).tolist()))
        return [[7]] * len(prompts), [[3, 4]] * len(prompts), None

    found = SimpleNamespace(accelerator=SimpleNamespace(), _generate=generate)
    monkeypatch.setattr(processes, "gathered", lambda own: [torch.zeros(2), own])
    assert in_parts._with_others(found, [], "how") == [[], [], None]
    assert in_parts._with_others(found, ["who"], "how") == [[[7]], [[3, 4]], None]
    assert given == [(["how"], [0, 0]), (["who"], [0, 0, 1])]
