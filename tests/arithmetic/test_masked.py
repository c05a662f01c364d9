"""Masked mean, variance and whitening: worked by hand, and blind to what the mask hides."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor
from torch.testing import assert_close

from rlhf_plugins.arithmetic import masked

VALUES = tensor([[1.0, 2.0, 99.0], [3.0, 99.0, 99.0]])
MASK = tensor([[True, True, False], [True, False, False]])


def test_mean_by_hand() -> None:
    assert masked.mean(VALUES, MASK).item() == 2.0  # (1 + 2 + 3) / 3
    assert masked.mean(VALUES, MASK, dim=1).tolist() == [1.5, 3.0]


def test_variance_by_hand() -> None:
    assert masked.variance(VALUES, MASK).item() == pytest.approx(2 / 3)  # ((1-2)^2 + 0 + (3-2)^2) / 3


def test_whiten_by_hand() -> None:
    s = 1.5**0.5  # 1 / sqrt(2/3)
    assert_close(masked.whiten(VALUES, MASK), tensor([[-s, 0.0, 0.0], [s, 0.0, 0.0]]))


def test_nothing_true_gives_zeros() -> None:
    nothing = torch.zeros_like(MASK)
    assert masked.mean(VALUES, nothing).item() == 0.0
    assert masked.mean(VALUES, nothing, dim=1).tolist() == [0.0, 0.0]
    assert masked.whiten(VALUES, nothing).tolist() == torch.zeros(2, 3).tolist()


@pytest.mark.parametrize("hidden", [float("nan"), float("inf"), -1e30])
def test_hidden_values_do_not_count(hidden: float) -> None:
    other = VALUES.masked_fill(~MASK, hidden)
    for function in (masked.mean, masked.variance, masked.whiten):
        assert_close(function(other, MASK), function(VALUES, MASK), rtol=0, atol=0)


@given(st.integers(0, 10_000), st.floats(-100, 100), st.floats(0.1, 100))
def test_whiten_gives_mean_0_and_variance_1_but_for_epsilon(seed: int, shift: float, scale: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(4, 6, generator=draw, dtype=torch.float64) * scale + shift
    mask = torch.rand(4, 6, generator=draw) < 0.6
    mask[0, :2] = True
    white = masked.whiten(values, mask)
    assert_close(white[mask].mean().item(), 0.0, rtol=0, atol=1e-9)
    spread = values[mask].var(correction=0)
    kept = spread / (spread + 1e-10 * (values[mask] ** 2).mean())  # the floor that epsilon sets
    assert_close(white[mask].var(correction=0), kept, rtol=1e-9, atol=0)
    assert not white[~mask].any()


def test_whiten_of_equal_values_is_zero() -> None:
    assert masked.whiten(torch.full((2, 3), 7.0), MASK).tolist() == torch.zeros(2, 3).tolist()
