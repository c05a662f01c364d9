"""The loss against arithmetic worked by hand."""

from __future__ import annotations

from math import log

import pytest
import torch
from rlhf_focal import FocalBradleyTerry

from rlhf_plugins import RankedScores


@pytest.mark.parametrize(("gamma", "factor"), [(0.0, 1.0), (1.0, 0.25), (2.0, 0.0625)])
def test_a_pair_ordered_with_probability_three_quarters(gamma: float, factor: float) -> None:
    scores = RankedScores.of(torch.tensor([[log(3.0), 0.0]]), torch.zeros(1))  # p = 3 / (3 + 1)
    assert FocalBradleyTerry(gamma)(scores).tolist() == pytest.approx([factor * log(4 / 3)])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("gap", [20.0, 200.0, -200.0])
def test_a_pair_that_is_ordered_for_certain_has_a_gradient(gamma: float, gap: float) -> None:
    scores = torch.tensor([[gap, 0.0]], requires_grad=True)
    FocalBradleyTerry(gamma)(RankedScores.of(scores)).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0, 0] == pytest.approx(-1.0 if gap < 0 else 0.0, abs=1e-6)
