"""Scores on tokens, the value loss and the KL of sequences: published cases, cases by hand, and what masks hide."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from rlhf_plugins.arithmetic.objectives import at_the_end, clipped_value_loss, kl_estimate, lengths_and_mask


def test_lengths_and_mask_of_responses() -> None:
    lengths, mask = lengths_and_mask([[7], [7, 8, 9], [7, 8]])
    assert lengths.tolist() == [1, 3, 2]
    assert mask.tolist() == [[True, False, False], [True, True, True], [True, True, False]]


def test_no_response_has_no_token() -> None:
    lengths, mask = lengths_and_mask([])
    assert (lengths.dtype, lengths.shape, mask.dtype, mask.shape) == (torch.long, (0,), torch.bool, (0, 0))
    assert at_the_end(torch.zeros(0), mask).shape == (0, 0)


def test_the_score_falls_on_each_rows_last_token() -> None:
    mask = tensor([[True, False, False], [True, True, False], [True, True, True]])
    paid = at_the_end(tensor([2.0, -3.0, 0.5]), mask)
    assert paid.tolist() == [[2, 0, 0], [0, -3, 0], [0, 0, 0.5]]


# value, old value, return -> 1/2 max of both squares, epsilon 0.2
@pytest.mark.parametrize(
    ("value", "old", "target", "loss"),
    [
        (0.5, 0.4, 2.0, 1.125),  # within epsilon: 1/2 (0.5 - 2)^2
        (1.0, 0.0, 2.0, 1.62),  # held at 0.2: 1/2 (0.2 - 2)^2
        (1.0, 2.0, 0.0, 1.62),  # held at 1.8: 1/2 1.8^2
        (1.0, 0.0, 0.0, 0.5),  # held at 0.2 would cost less: the larger counts
    ],
)
def test_clipped_value_loss_by_hand(value: float, old: float, target: float, loss: float) -> None:
    found = clipped_value_loss(tensor([[value]]), tensor([[old]]), tensor([[target]]), epsilon=0.2)
    assert_close(found, tensor([[loss]]))


def test_losses_have_the_gradient_that_they_should() -> None:
    draw = torch.Generator().manual_seed(0)
    x, a, r = (torch.randn(3, 4, generator=draw, dtype=torch.float64) for _ in range(3))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: clipped_value_loss(x, a, r, 0.2), x)


def test_kl_estimate_of_a_published_case() -> None:
    # huggingface/trl@d0aa421e tests/test_ppo_trainer.py: log-ratios of two sequences, summing to 0.1 and -0.2
    logp, ref = tensor([[0.5, 0.2, 0.1], [0.6, 0.2, 0.1]]), tensor([[0.4, 0.3, 0.0], [0.7, 0.1, 0.3]])
    everywhere = torch.ones(2, 3, dtype=torch.bool)
    assert kl_estimate(logp - ref, everywhere).item() == pytest.approx(-0.05)
    first = tensor([[True, False, False], [True, True, False]])
    assert kl_estimate(logp - ref, first).item() == pytest.approx(0.05)  # (0.1 + (-0.1 + 0.1)) / 2


def test_kl_estimate_is_the_kl_of_the_distributions() -> None:
    # KL([.98 .01 .01] || [.01 .01 .98]) = .97 log 98 = 4.4474 (same source), drawn exactly in proportion
    log_ratio = tensor([[log(98.0)]] * 98 + [[0.0]] + [[-log(98.0)]])
    assert kl_estimate(log_ratio, torch.ones(100, 1, dtype=torch.bool)).item() == pytest.approx(4.4474, abs=1e-4)
