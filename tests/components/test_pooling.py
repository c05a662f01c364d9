"""Poolings: worked by hand, and blind to padding, batch mates and order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, tensor
from torch.testing import assert_close

from rlhf_plugins.components.pooling import LastToken, Mean, register_pooling

HIDDEN = tensor([[[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]]])
POOLINGS = [LastToken(), Mean()]


@pytest.mark.parametrize(
    ("mask", "last", "mean"),
    [
        ([True, True, True], [6.0, 60.0], [3.0, 30.0]),
        ([True, True, False], [2.0, 20.0], [1.5, 15.0]),  # padded on the right
        ([False, True, True], [6.0, 60.0], [4.0, 40.0]),  # padded on the left
        ([False, True, False], [2.0, 20.0], [2.0, 20.0]),
    ],
)
def test_by_hand(mask: list[bool], last: list[float], mean: list[float]) -> None:
    assert LastToken()(HIDDEN, tensor([mask])).tolist() == [last]
    assert Mean()(HIDDEN, tensor([mask])).tolist() == [mean]


def test_an_end_token_that_is_also_the_padding_token_is_found_by_the_mask() -> None:
    ids = tensor([[5, 6, 0, 0]])  # 0 ends the response and pads: the mask keeps the first
    hidden = tensor([[[0.0], [1.0], [2.0], [3.0]]])
    mask = tensor([[True, True, True, False]])
    assert (ids[mask] == 0).sum() == 1
    assert LastToken()(hidden, mask).tolist() == [[2.0]]
    assert Mean()(hidden, mask).tolist() == [[1.0]]


def random_batch(seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(4, 6, 3, generator=draw, dtype=torch.float64)
    return hidden, torch.arange(6) < torch.randint(1, 7, (4, 1), generator=draw)


@pytest.mark.parametrize("pooling", POOLINGS)
@given(seed=st.integers(0, 10_000), junk=st.sampled_from([1e6, float("nan"), float("inf")]))
def test_padding_never_counts(pooling: LastToken | Mean, seed: int, junk: float) -> None:
    hidden, mask = random_batch(seed)
    pooled = pooling(hidden, mask)
    dirty = hidden.masked_fill(~mask.unsqueeze(-1), junk)
    wider = torch.cat([torch.full((4, 2, 3), junk), dirty, torch.full((4, 1, 3), junk)], 1).to(hidden.dtype)
    wider_mask = torch.nn.functional.pad(mask, (2, 1))
    assert_close(pooling(dirty, mask), pooled, rtol=0, atol=0)
    assert_close(pooling(wider, wider_mask), pooled)


@pytest.mark.parametrize("pooling", POOLINGS)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(4)))
def test_batch_mates_and_their_order_never_count(pooling: LastToken | Mean, seed: int, order: list[int]) -> None:
    hidden, mask = random_batch(seed)
    pooled = pooling(hidden, mask)
    assert_close(pooling(hidden[order], mask[order]), pooled[order], rtol=0, atol=0)
    n = int(mask[0].sum())
    assert_close(pooling(hidden[:1, :n], mask[:1, :n]), pooled[:1])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_gradient(pooling: LastToken | Mean) -> None:
    hidden, mask = random_batch(0)
    assert torch.autograd.gradcheck(lambda h: pooling(h, mask), hidden.requires_grad_())


def test_names_of_the_recipe() -> None:
    assert register_pooling() == {"last_token": LastToken, "mean": Mean}
