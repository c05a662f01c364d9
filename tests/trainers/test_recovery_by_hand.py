"""What is computed again where memory runs out, by one weight whose gradient is the sum of the micro-batches' means."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf_plugins.trainers.steps.recovery import KEPT, SHARE, Kept, Opaque, Recovery


class Weight(nn.Module):
    """A trained weight beside frozen ones, so that it is few of all, or all."""

    def __init__(self, frozen: int) -> None:
        super().__init__()
        self.trained = nn.Parameter(torch.tensor(1.0))
        self.frozen = nn.Parameter(torch.zeros(frozen), requires_grad=False)
        self.sizes: list[int] = []  # of the batches that were tried

    def step(self, part: dict[str, Any]) -> Tensor:
        """The mean of the tokens times the weight; there is memory for two."""
        tokens = part["input_ids"]
        self.sizes.append(len(tokens))
        loss = (self.trained * tokens).mean() * part.get(SHARE, 1.0)
        (loss / 2 if len(tokens) > 2 else loss).backward()  # a failed pass leaves something behind
        if len(tokens) > 2:
            raise torch.OutOfMemoryError
        return loss.detach()


def batch(*tokens: float) -> dict[str, Any]:
    def collate(rows: Sequence[Any]) -> dict[str, Any]:
        return {"input_ids": torch.tensor(rows)}

    return {**collate(tokens), KEPT: Opaque(Kept(tokens, collate))}


@pytest.mark.parametrize(("frozen", "again"), [(100, []), (0, [2])], ids=["set aside", "computed again"])
def test_a_step_of_three_micro_batches(frozen: int, again: list[int], caplog: pytest.LogCaptureFixture) -> None:
    """Means 3/2, then 9/2 of four tokens, of which two fit; 6 of the next four, which are cut before they fail."""
    caplog.set_level(logging.WARNING)
    model = Weight(frozen)
    recovery = Recovery(model, lambda: [])
    losses = [recovery.computed(model.step, batch(1.0, 2.0)), recovery.computed(model.step, batch(3.0, 4.0, 5.0, 6.0))]
    assert [float(loss) for loss in losses] == [1.5, 4.5]
    assert model.sizes == [2, 4, *again, 2, 2]
    assert float(model.trained.grad) == 6.0
    assert float(recovery.computed(model.step, batch(9.0, 7.0, 5.0, 3.0))) == 6.0
    assert (float(model.trained.grad), model.sizes[-2:], len(caplog.records)) == (12.0, [2, 2], 1)
    recovery.computed(model.step, batch(1.0, 1.0))
    assert model.sizes[-3:] == [2, 2, 2]  # what fits is not cut


def test_nothing_of_an_earlier_step_is_computed_again() -> None:
    """After an optimizer step, whose gradients are gone: the mean 8 alone, then 4 of four tokens."""
    model = Weight(0)
    recovery = Recovery(model, lambda: [])
    recovery.computed(model.step, batch(1.0, 2.0))
    model.trained.grad = None
    recovery.computed(model.step, batch(8.0))
    recovery.computed(model.step, batch(4.0, 4.0, 4.0, 4.0))
    assert (float(model.trained.grad), model.sizes) == (12.0, [2, 1, 4, 1, 2, 2])
