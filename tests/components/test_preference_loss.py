"""DPO and IPO: published numbers, cases by hand, Azar et al.'s bandits solved, and losses that keep to their pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, tensor
from torch.testing import assert_close

from rlhf_plugins.components.preference_loss import (
    DPO,
    IPO,
    KTO,
    SFT,
    DPOMargin,
    Entropy,
    IPOPerToken,
    ReferenceKL,
    Sum,
    register_preference_loss,
)
from rlhf_plugins.contract.records import PairLogps

Loss = Callable[[PairLogps], Tensor]
LOSSES: list[Loss] = [DPO(), DPOMargin(), IPO(), IPOPerToken(), SFT(), ReferenceKL()]  # of log-probabilities alone
ONES = torch.ones(3, dtype=torch.long)
# summed log-probabilities of three pairs (torchtune's tests): h = 0, 10, 20
SUMMED = PairLogps.of(
    tensor([-0.5, -10.0, -1.0]),
    tensor([-0.1, -30.0, -21.0]),
    tensor([-0.5, -10.1, -0.1]),
    tensor([-0.1, -20.1, -0.1]),
    ONES,
    ONES,
)


def random_pairs(seed: int, scale: float = 1.0) -> PairLogps:
    draw = torch.Generator().manual_seed(seed)
    logps = [-scale * torch.rand(5, generator=draw, dtype=torch.float64) for _ in range(4)]
    lengths = [torch.randint(1, 20, (5,), generator=draw) for _ in range(2)]
    return PairLogps.of(*(logps + lengths))


def rows(pairs: PairLogps, which: list[int]) -> PairLogps:
    return PairLogps(*(field[which] for field in astuple(pairs) if field is not None))


def test_published_dpo() -> None:
    # -log sigmoid(0), -log sigmoid(1), -log sigmoid(2)
    assert_close(DPO(beta=0.1)(SUMMED), tensor([0.6931471806, 0.3132616875, 0.126928011]))


def test_a_margin_is_how_far_dpo_must_lead_by_hand() -> None:
    pairs = replace(SUMMED, margin=tensor([0.0, 0.5, 4.0]))  # beta h = 0, 1, 2, and twice the margin 0, 1, 8
    # -log sigmoid(0), -log sigmoid(0), -log sigmoid(-6)
    assert_close(DPOMargin(beta=0.1, alpha=2.0)(pairs), tensor([0.6931472, 0.6931472, 6.0024757]))
    assert_close(DPOMargin(beta=0.1, alpha=0.0)(pairs), DPO(beta=0.1)(pairs), rtol=0, atol=0)


def test_published_ipo_of_summed_log_ratios() -> None:
    assert_close(IPO(beta=0.1)(SUMMED), tensor([25.0, 25.0, 225.0]))  # (0 - 5)^2, (10 - 5)^2, (20 - 5)^2


def test_ipo_per_token_by_hand() -> None:
    pair = PairLogps.of(*(tensor([x]) for x in (-1.0, -5.0, -3.0, -2.0, 4, 2)))
    # chosen (-1 + 3) / 4 = 1/2, rejected (-5 + 2) / 2 = -3/2: h = 2, and (2 - 1)^2 at beta 1/2
    assert IPOPerToken(beta=0.5)(pair).tolist() == [1.0]
    assert IPO(beta=0.5)(pair).tolist() == [16.0]  # h = 2 + 3 = 5


def test_kto_by_hand() -> None:
    ratios = tensor([1.0, -2.0]), tensor([3.0, 1.0])  # of two labelled responses, and of other prompts'
    zeros, label = torch.zeros(2), tensor([1.0, 0.0])
    pairs = PairLogps.of(*ratios, zeros, zeros, ONES[:2], ONES[:2], probability=label)
    # z = (3 + 1) / 2 = 2: 1 - s(.5 (1 - 2)) = s(.5), and 2 (1 - s(.5 (2 + 2))) = 2 s(-2)
    expected = torch.sigmoid(tensor([0.5, -2.0])) * tensor([1.0, 2.0])
    assert_close(KTO(beta=0.5, undesirable_weight=2.0)(pairs), expected)
    below = replace(pairs, rejected=tensor([-9.0, 1.0]))  # z is never below 0
    assert_close(KTO(beta=0.5)(below), torch.sigmoid(tensor([-0.5, -1.0])))


def test_no_gradient_flows_through_the_kl_of_kto() -> None:
    pairs = replace(random_pairs(0), rejected=torch.ones(5, dtype=torch.float64, requires_grad=True))
    chosen = pairs.chosen.clone().requires_grad_()
    KTO()(replace(pairs, chosen=chosen)).sum().backward()
    assert pairs.rejected.grad is None
    assert chosen.grad is not None


def test_labels_and_pairs_are_not_summed() -> None:
    with pytest.raises(ValueError, match="some are given labelled responses and others pairs"):
        Sum(losses=(DPO(), KTO()))


def test_regularisers_by_hand() -> None:
    pair = PairLogps.of(*(tensor([x]) for x in (-1.0, -5.0, -3.0, -2.0, 4, 2)))
    assert SFT()(pair).tolist() == [0.25]  # 1 / 4
    assert SFT()(replace(pair, probability=tensor([0.6]))).tolist() == pytest.approx([0.6 * 0.25 + 0.4 * 2.5])
    assert ReferenceKL()(pair).tolist() == [(2**2 + 3**2) / 4]
    hybrid = Sum(losses=(IPO(beta=0.5), SFT(), ReferenceKL()), weights=[1.0, 2.0, 0.1])
    assert hybrid(pair).tolist() == pytest.approx([16.0 + 0.5 + 0.325])


def test_an_entropy_bonus_by_hand() -> None:
    entropies = tensor([[0.75, 0.25], [1.0, 3.0], [0.0, 0.0]], requires_grad=True)
    found = Entropy()(replace(SUMMED, entropies=entropies))
    assert found.tolist() == [-0.5, -2.0, 0.0]
    hybrid = Sum(losses=(DPO(beta=0.1), Entropy()), weights=[1.0, 0.1])
    bonus = tensor([0.6931472 - 0.05, 0.3132617 - 0.2, 0.1269280])
    assert_close(hybrid(replace(SUMMED, entropies=entropies.detach())), bonus)
    found.sum().backward()
    assert entropies.grad is not None
    assert entropies.grad.tolist() == [[-0.5, -0.5]] * 3  # descent raises both


def test_a_sum_is_given_entropies_where_a_part_reads_them() -> None:
    assert Sum(losses=(DPO(), Entropy()), weights=[1.0, 0.1]).reads_entropy
    assert not Sum(losses=(DPO(), SFT()), weights=[1.0, 0.1]).reads_entropy


def test_per_token_is_the_paper_when_responses_have_one_token() -> None:
    assert_close(IPOPerToken()(SUMMED), IPO()(SUMMED))


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(5)))
def test_batch_mates_and_their_order_never_count(loss: Loss, seed: int, order: list[int]) -> None:
    pairs = random_pairs(seed)
    assert_close(loss(rows(pairs, order)), loss(pairs)[order], rtol=0, atol=0)
    assert_close(loss(rows(pairs, [3])), loss(pairs)[3:4], rtol=0, atol=0)


@pytest.mark.parametrize("loss", [DPO(), IPO()])
@given(seed=st.integers(0, 10_000), shift=st.floats(-50, 50))
def test_what_both_responses_gain_cancels(loss: Loss, seed: int, shift: float) -> None:
    pairs = random_pairs(seed)
    moved = replace(pairs, chosen=pairs.chosen + shift, rejected=pairs.rejected + shift)
    assert_close(loss(moved), loss(pairs), rtol=1e-9, atol=1e-9)


@given(st.integers(0, 10_000))
def test_dpo_and_its_reversal_are_two_sides_of_one_probability(seed: int) -> None:
    pairs = random_pairs(seed, scale=30.0)
    fields = (pairs.rejected, pairs.chosen, pairs.ref_rejected, pairs.ref_chosen)
    reversed_pairs = PairLogps.of(*fields, pairs.rejected_length, pairs.chosen_length)
    total = (-DPO()(pairs)).exp() + (-DPO()(reversed_pairs)).exp()
    assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("gap", [1e4, -1e4])
def test_large_differences_stay_finite(loss: Loss, gap: float) -> None:
    chosen = tensor([gap], requires_grad=True)
    zero, one = torch.zeros(1), torch.ones(1)
    value = loss(PairLogps.of(chosen, zero, zero, zero, one, one))
    value.sum().backward()
    assert chosen.grad is not None
    assert value.isfinite().all()
    assert chosen.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient(loss: Loss) -> None:
    pairs = random_pairs(0, scale=5.0)
    four = tuple(field.requires_grad_() for field in astuple(pairs)[:4])
    names = ("chosen", "rejected", "ref_chosen", "ref_rejected")

    def of_four(*logps: Tensor) -> Tensor:
        return loss(replace(pairs, **dict(zip(names, logps, strict=True))))

    assert torch.autograd.gradcheck(of_four, four)


# ---- Azar et al. 2023, section 5: a softmax policy over actions, a uniform reference ---------------------------------
def solved(loss: Loss, pairs: list[tuple[int, int]], actions: int) -> Tensor:
    """The policy that minimises the mean loss over (winner, loser) pairs, found from the uniform one."""
    theta = torch.zeros(actions, dtype=torch.float64, requires_grad=True)
    winner, loser = tensor(pairs).T
    ref, one = torch.full_like(winner, 1 / actions, dtype=torch.float64).log(), torch.ones_like(winner)
    exact: dict[str, Any] = {"tolerance_grad": 0, "tolerance_change": 0, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([theta], max_iter=60, max_eval=500, **exact)

    def closure() -> Tensor:
        optimizer.zero_grad()
        logp = theta.log_softmax(0)
        value = loss(PairLogps.of(logp[winner], logp[loser], ref, ref, one, one)).mean()
        value.backward()
        return value

    optimizer.step(closure)
    return theta.detach().softmax(0)


A, B, C = range(3)
PUBLISHED = [  # tau, P(winner) of two actions, {(a,b), (b,c), (a,c)}, {(a,b)} with c never seen
    (0.1, 0.9933071491, [0.964369789, 0.03440292144, 0.00122728959], [0.9184229668, 0.07538874796, 0.006188285273]),
    (0.5, 0.7310585786, [0.5627416865, 0.2889212154, 0.1483370981], [0.5064803911, 0.3071958857, 0.1863237232]),
    (1.0, 0.6224593312, [0.4484408638, 0.3213219199, 0.2302372163], [0.4192289516, 0.3264958358, 0.2542752126]),
    (10.0, 0.5124973965, [0.3445040986, 0.3332099108, 0.3222859906], [0.3417005155, 0.3332638997, 0.3250355847]),
]


@pytest.mark.parametrize(("tau", "two", "ordered", "unseen"), PUBLISHED)
def test_ipo_reaches_the_published_policies(tau: float, two: float, ordered: list[float], unseen: list[float]) -> None:
    loss = IPO(beta=tau)
    assert_close(solved(loss, [(A, B)], 2)[A].item(), two)
    assert_close(solved(loss, [(A, B), (B, C), (A, C)], 3).tolist(), ordered)
    assert_close(solved(loss, [(A, B)], 3)[[A, C, B]].tolist(), unseen)
    assert_close(solved(loss, [(A, B), (B, C), (C, A)], 3).tolist(), [1 / 3] * 3)


@pytest.mark.parametrize("beta", [0.1, 1.0, 4.0])
def test_dpo_goes_to_a_deterministic_policy_whatever_its_beta(beta: float) -> None:
    assert solved(DPO(beta), [(A, B)], 2)[A] > 0.99
    assert solved(DPO(beta), [(A, B), (B, C), (A, C)], 3)[A] > 0.99


@pytest.mark.parametrize("cls", [DPO, IPO, IPOPerToken])
@pytest.mark.parametrize("beta", [0, -0.1, "strong"])
def test_beta_must_be_positive(cls: type, beta: object) -> None:
    with pytest.raises(ValidationError, match="beta"):
        TypeAdapter(cls).validate_python({"beta": beta})


def test_names_of_the_recipe() -> None:
    regularisers = {"entropy": Entropy, "reference_kl": ReferenceKL, "sft": SFT}
    assert register_preference_loss() == {
        "dpo": DPO,
        "dpo_margin": DPOMargin,
        "ipo": IPO,
        "ipo_per_token": IPOPerToken,
        "kto": KTO,
        "sum": Sum,
        **regularisers,
    }


def test_a_sum_is_of_weighted_losses_by_hand() -> None:
    """Of the pairs h = 0, 10, 20 and beta 1: log 2 = 0.6931 and (0 - 0.5)^2 = 0.25, so 2 * 0.6931 + 0.5 * 0.25."""
    found = Sum(losses=(DPO(1.0), IPO(1.0)), weights=[2.0, 0.5])(SUMMED)
    assert_close(found[0], tensor(2 * 0.6931472 + 0.5 * 0.25))
    assert_close(found, 2 * DPO(1.0)(SUMMED) + 0.5 * IPO(1.0)(SUMMED))


def test_a_sum_without_a_weight_for_each_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="weights: 2 numbers for 1 losses"):
        Sum(losses=(DPO(),), weights=[1.0, 1.0])
