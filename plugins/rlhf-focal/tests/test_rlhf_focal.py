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
