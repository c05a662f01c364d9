"""Each component against arithmetic worked by hand; what must hold of any is tried by the conformance kit."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import Any

import pytest
import torch
from rlhf_robust.adversarial import Adversarial, Sensitive
from rlhf_robust.group_dro import GroupDRO
from rlhf_robust.weak_to_strong import WeakToStrong
from torch import Tensor, nn

from rlhf_plugins import Prediction, RankedScores, RewardHead, RewardLoss, RunError


@dataclass(frozen=True)
class Gap(RewardLoss):
    """A loss that is easy to follow: minus the gap of rewards."""

    def __call__(self, scores: RankedScores) -> Tensor:
        return scores.rejected - scores.chosen


class Halves(nn.Module):
    """A head whose reward is 3 h_1 + 4 h_2."""

    def forward(self, features: Tensor) -> Tensor:
        return features @ torch.tensor([3.0, 4.0])


@dataclass(frozen=True)
class Head(RewardHead):
    """Builds it."""

    def build(self, width: int) -> nn.Module:
        return Halves()


def pairs(*gaps: float, slopes: list[list[float]] | None = None, **known: list[Any]) -> RankedScores:
    """Pairs with the given gaps of rewards."""
    scores = torch.tensor([[gap, 0.0] for gap in gaps])
    said = None if slopes is None else Prediction(scores, dimensions={"sensitivity": torch.tensor(slopes)})
    return RankedScores.of(scores, prediction=said, **{name: torch.tensor(each) for name, each in known.items()})


@pytest.mark.parametrize(
    ("gap", "expected"), [(1.0, log(1 + exp(-1))), (-1.0, 0.75 * log(1 + exp(1)) + 0.25 * log(1 + exp(-1)))]
)
def test_a_confident_model_is_believed_by_a_quarter(gap: float, expected: float) -> None:
    assert WeakToStrong(alpha=0.25).build()(pairs(gap)).tolist() == pytest.approx([expected])


def test_trust_rises_over_the_first_pairs_of_training() -> None:
    """A pair with d = -1, which the two order differently: log(1 + e) falls to its mean with log(1 + 1/e)."""
    loss = WeakToStrong(alpha=0.5, warmup=4).build().train()
    labels, both = log(1 + exp(1)), (log(1 + exp(1)) + log(1 + exp(-1))) / 2
    batch = pairs(-1.0, -1.0)
    assert [loss(batch)[0].item() for _ in range(4)] == pytest.approx([labels, (labels + both) / 2, both, both])
    again = WeakToStrong(alpha=0.5, warmup=4).build()
    again.load_state_dict(loss.state_dict())
    assert again.eval()(batch)[0].item() == pytest.approx(both)


def test_a_soft_label_is_a_probability() -> None:
    batch = pairs(1.0, probability=[0.75])
    weak = 0.75 * log(1 + exp(-1)) + 0.25 * log(1 + exp(1))
    assert WeakToStrong(alpha=0.0).build()(batch).item() == pytest.approx(weak)


def test_a_checkpoint_keeps_the_weights_of_topics() -> None:
    loss = GroupDRO(loss=Gap(), eta=log(2) / 3).build().train()
    batch = pairs(-1.0, -3.0, -5.0, topic=[0, 0, 3])
    loss(batch)
    again = GroupDRO(loss=Gap(), eta=log(2) / 3).build()
    again.load_state_dict(loss.state_dict())
    assert again.eval()(batch).tolist() == loss.eval()(batch).tolist()
    with pytest.raises(RunError, match="5001 topics"):
        again(pairs(-1.0, topic=[5000]))


def test_topics_start_equal() -> None:
    loss = GroupDRO(loss=Gap()).build().eval()
    batch = pairs(-1.0, -3.0, -5.0, topic=[0, 0, 1])  # L_0 = 2, L_1 = 5
    assert loss(batch).tolist() == pytest.approx([3 * 0.5 / 2 * 1, 3 * 0.5 / 2 * 3, 3 * 0.5 * 5])
    assert loss(batch).mean().item() == pytest.approx(0.5 * 2 + 0.5 * 5)


def test_the_worst_topic_gains_weight() -> None:
    loss = GroupDRO(loss=Gap(), eta=log(2) / 3).build().train()
    batch = pairs(-1.0, -3.0, -5.0, topic=[0, 0, 3])
    assert loss(batch).mean().item() == pytest.approx((1 * 2 + 2 * 5) / 3)  # exp(eta (5 - 2)) = 2
    assert loss(batch).mean().item() == pytest.approx((1 * 2 + 4 * 5) / 5)
    assert loss.eval()(batch).mean().item() == pytest.approx((1 * 2 + 4 * 5) / 5)


def test_a_batch_of_one_topic_has_its_plain_mean() -> None:
    loss = GroupDRO(loss=Gap()).build().train()
    assert loss(pairs(-1.0, -3.0, topic=[7, 7])).tolist() == pytest.approx([1.0, 3.0])


def test_the_steepness_of_a_linear_head_is_the_length_of_its_weights() -> None:
    head = Sensitive(head=Head()).build(2)
    said = head(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert said.reward.tolist() == [3.0, 4.0]
    assert said.dimensions["sensitivity"].tolist() == [5.0, 5.0]
    with torch.no_grad():
        assert not head(torch.zeros(1, 2)).reward.requires_grad


def test_the_worst_case_takes_from_the_better_and_gives_to_the_worse() -> None:
    batch = pairs(1.0, slopes=[[5.0, 3.0]])
    assert Adversarial(loss=Gap(), epsilon=0.1)(batch).tolist() == pytest.approx([-(1.0 - 0.1 * 5 - 0.1 * 3)])


def test_no_change_of_the_features_is_worse_than_the_worst_case() -> None:
    features = torch.tensor([[1.0, 0.0], [0.2, -0.5]])
    said = Sensitive(head=Head()).build(2)(features)
    worst = Adversarial(loss=Gap(), epsilon=0.1)(pairs(5.0, slopes=[said.dimensions["sensitivity"].tolist()]))
    for angle in torch.linspace(0, 6.3, 64):
        change = 0.1 * torch.stack([angle.cos(), angle.sin()])
        gap = 5.0 + Halves()(change) - Halves()(-change)
        assert -gap <= worst + 1e-5


def test_a_head_that_tells_no_steepness_is_refused() -> None:
    with pytest.raises(RunError, match="the head predicts no 'sensitivity': use `head: sensitive`"):
        Adversarial(loss=Gap())(pairs(1.0))
