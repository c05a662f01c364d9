"""The scalar head: a weighted sum without a bias, one number a row."""

from __future__ import annotations

import pytest
import torch
from torch import nn, tensor
from torch.testing import assert_close

from rlhf_plugins.components.reward_head import Scalar, register_reward_head


def scalar(weights: list[float]) -> nn.Module:
    head = Scalar().build(len(weights))
    nn.init.constant_(head.get_parameter("weight"), 0.0)
    head.load_state_dict({"weight": tensor([weights])})
    return head


def test_a_weighted_sum_by_hand() -> None:
    rewards = scalar([1.0, -2.0, 0.5])(tensor([[1.0, 1.0, 4.0], [0.0, 0.0, 0.0]]))
    assert rewards.tolist() == [1.0, 0.0]  # 1 - 2 + 2; nothing in, nothing out: there is no bias


def test_one_row_stays_one_row() -> None:
    assert scalar([2.0])(tensor([[3.0]])).shape == (1,)


def test_weights_start_with_the_published_spread() -> None:
    torch.manual_seed(0)
    weight = Scalar().build(1023).get_parameter("weight")
    assert weight.std().item() == pytest.approx(1 / 32, rel=0.1)  # 1 / sqrt(1023 + 1)
    assert abs(weight.mean().item()) < 3 / 32 / 1023**0.5


def test_weights_follow_the_seed() -> None:
    heads = []
    for _ in range(2):
        torch.manual_seed(7)
        heads.append(Scalar().build(8).get_parameter("weight"))
    assert_close(*heads, rtol=0, atol=0)


def test_gradient() -> None:
    features = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Scalar().build(4).double(), features)


def test_the_name_of_the_recipe() -> None:
    assert register_reward_head() == {"scalar": Scalar}
