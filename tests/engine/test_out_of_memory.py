"""Generation where memory runs out: for fewer prompts at a time, each response once, and nothing is left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rlhf_plugins.engine.out_of_memory import out_of_memory
from rlhf_plugins.engine.token_budget import cached_at_once, generated
from rlhf_plugins.errors import RunError


class Placed(nn.Module):
    """Says where it is, as a model of transformers does, and recomputes its activations."""

    device = torch.device("cpu")
    gradient_checkpointing = True


class Limited:
    """Answers each place with itself and a random number, where as many tokens as it says fit."""

    def __init__(self, lengths: list[int], tokens: int) -> None:
        self.lengths, self.tokens, self.model = lengths, tokens, Placed()
        self.model.gradient_checkpointing = True  # of its own, as transformers sets it
        self.calls: list[tuple[int, int]] = []

    def __call__(self, part: slice) -> list[tuple[int, float]]:
        self.calls.append((part.start, part.stop))
        self.model.gradient_checkpointing = False  # as TRL does for a generation
        draw = torch.rand(part.stop - part.start).tolist()
        if (part.stop - part.start) * max(self.lengths[part]) > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.model.gradient_checkpointing = True
        return list(zip(range(part.start, part.stop), draw, strict=True))

    def all(self, **more: Any) -> list[int]:
        found = [each for _, made in generated(self.model, self.lengths, 8, self, **more) for each in made]
        return [place for place, _ in found]


RUN_OUT = ["CUDA error", "CUDA driver error", "Triton Error [CUDA]"]


@pytest.mark.parametrize("who", RUN_OUT)
def test_whoever_says_it_memory_ran_out(who: str) -> None:
    assert out_of_memory(RuntimeError(f"{who}: out of memory"))
    assert not out_of_memory(RuntimeError(f"{who}: invalid argument"))


def test_fewer_rows_at_a_time_until_they_fit_and_later_too(caplog: pytest.LogCaptureFixture) -> None:
    limited = Limited([4] * 12, tokens=12)
    assert limited.all() == [*range(12)]
    assert limited.calls == [(0, 8), (0, 4), (0, 2), (2, 4), (4, 6), (6, 8), (8, 10), (10, 12)]
    assert cached_at_once(limited.model) == 8
    assert "32 tokens at once: generated again for fewer prompts" in caplog.text
    assert "the samples are others" in caplog.text
    limited.calls.clear()
    limited.all()
    assert limited.calls == [(2 * i, 2 * i + 2) for i in range(6)]


def test_a_failed_call_leaves_no_trace() -> None:
    limited, undone = Limited([4] * 4, tokens=8), []
    limited.all(undo=lambda: lambda: undone.append(1))
    assert limited.model.gradient_checkpointing
    assert undone == [1]


def test_random_numbers_do_not_depend_on_where_it_failed() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2).tolist()
    torch.manual_seed(0)
    limited = Limited([4] * 4, tokens=8)
    first = next(generated(limited.model, limited.lengths, 8, limited))[1]
    assert [draw for _, draw in first] == expected


def test_one_row_that_does_not_fit_is_one_line() -> None:
    limited = Limited([4, 20], tokens=8)
    with pytest.raises(RunError, match="CUDA out of memory.*: one response of 20 tokens, .* is too much"):
        limited.all()
    assert limited.calls[-2:] == [(1, 2)] * 2


def test_other_errors_are_errors() -> None:
    def broken(part: slice) -> None:
        raise RuntimeError("index out of range")

    with pytest.raises(RuntimeError, match="index"):
        list(generated(Placed(), [1, 2], 8, broken))
