"""Each loss against arithmetic worked by hand; what must hold of any loss is tried by the conformance kit."""

from __future__ import annotations

from math import exp, log
from pathlib import Path

import pytest
import rlhf_losses_extra
import torch
from rlhf_losses_extra.aot import AOT
from rlhf_losses_extra.apo_down import APODown
from rlhf_losses_extra.apo_zero import APOZero
from rlhf_losses_extra.cdpo import CDPO
from rlhf_losses_extra.dpo_hinge import HingeDPO
from rlhf_losses_extra.dpo_norm import NormalisedDPO
from rlhf_losses_extra.dpo_robust import RobustDPO
from rlhf_losses_extra.exo_pair import EXOPair
from rlhf_losses_extra.kto_pairs import KTOPairs
from rlhf_losses_extra.nca_pair import NCAPair
from rlhf_losses_extra.orpo import ORPO
from rlhf_losses_extra.simpo import SimPO
from rlhf_losses_extra.sppo_hard import SPPOHard

from rlhf_plugins import PairLogps, PreferenceLoss


def pairs(*sides: list[float], lengths: tuple[int, int] = (1, 1)) -> PairLogps:
    """Pairs of chosen, rejected and their reference's log-probabilities; all have the same two lengths."""
    counts = (torch.full((len(sides[0]),), length) for length in lengths)
    return PairLogps.of(*map(torch.tensor, sides), *counts)


ONE = pairs([-4.0], [-9.0], [-5.0], [-8.0], lengths=(2, 3))  # log-ratios 1 and -1, h = 2; a token -2 and -3
SIGMOID_1, SIGMOID_OF_MINUS_1 = 1 / (1 + exp(-1)), 1 / (1 + exp(1))


def test_simpo_compares_log_probabilities_a_token() -> None:
    assert SimPO(beta=3.0, gamma=2.0)(ONE).tolist() == pytest.approx([-log(SIGMOID_1)])  # 3 (-2 + 3) - 2 = 1


def test_orpo_adds_the_odds_ratio_to_imitation() -> None:
    odds = [exp(-2) / (1 - exp(-2)), exp(-3) / (1 - exp(-3))]
    ratio = odds[0] / odds[1]
    assert ORPO(lam=0.5)(ONE).tolist() == pytest.approx([2 + 0.5 * log(1 + 1 / ratio)])  # -log sigmoid(log ratio)


def test_orpo_is_finite_for_a_certain_response() -> None:
    certain = pairs([0.0], [-9.0], [0.0], [0.0])
    assert ORPO()(certain).tolist() == pytest.approx([0.0], abs=1e-5)


def test_cdpo_mixes_both_labels() -> None:
    expected = -0.75 * log(SIGMOID_1) - 0.25 * log(SIGMOID_OF_MINUS_1)
    assert CDPO(beta=0.5, epsilon=0.25)(ONE).tolist() == pytest.approx([expected])  # beta h = 1


def test_robust_dpo_takes_off_what_flipped_labels_add() -> None:
    expected = (-0.75 * log(SIGMOID_1) + 0.25 * log(SIGMOID_OF_MINUS_1)) / 0.5
    assert RobustDPO(beta=0.5, epsilon=0.25)(ONE).tolist() == pytest.approx([expected])


def test_robust_dpo_of_flipped_labels_is_dpo_of_true_ones_in_the_mean() -> None:
    swapped = pairs([-9.0], [-4.0], [-8.0], [-5.0], lengths=(3, 2))
    loss = RobustDPO(beta=0.5, epsilon=0.25)
    assert (0.75 * loss(ONE) + 0.25 * loss(swapped)).tolist() == pytest.approx([-log(SIGMOID_1)])


@pytest.mark.parametrize(("beta", "expected"), [(0.25, 0.5), (0.5, 0.0), (1.0, 0.0)])
def test_the_hinge_is_free_beyond_its_gap(beta: float, expected: float) -> None:
    assert HingeDPO(beta)(ONE).tolist() == pytest.approx([expected])  # 1 - 2 beta


def test_aot_compares_margins_of_one_rank() -> None:
    both = pairs([5.0, 1.0], [0.0, 0.0], [2.0, 4.0], [0.0, 0.0])  # margins 5, 1; of the reference 2, 4
    expected = [-log(1 / (1 + exp(-(5 - 4)))), -log(1 / (1 + exp(-(1 - 2))))]
    assert AOT(beta=1.0)(both).tolist() == pytest.approx(expected)


def test_kto_weighs_gains_and_losses_against_the_batch() -> None:
    both = pairs([2.0, 4.0], [-1.0, -1.0], [0.0, 0.0], [0.0, 0.0])  # z = (2 + 4 - 1 - 1) / 4 = 1
    expected = [2 / (1 + exp(1)) + 1 / (1 + exp(2)), 2 / (1 + exp(3)) + 1 / (1 + exp(2))]
    assert KTOPairs(beta=1.0, desirable=2.0)(both).tolist() == pytest.approx(expected)


def test_the_reference_point_of_kto_is_never_below_0() -> None:
    low = pairs([-2.0], [-4.0], [0.0], [0.0])
    assert KTOPairs(beta=1.0)(low).tolist() == pytest.approx([1 / (1 + exp(-2)) + 1 / (1 + exp(4))])


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def test_apo_zero_moves_each_response_by_itself_and_apo_down_lowers_both() -> None:
    assert APOZero(beta=1.0)(ONE).tolist() == pytest.approx([1 - sigmoid(1) + sigmoid(-1)])
    assert APODown(beta=1.0)(ONE).tolist() == pytest.approx([sigmoid(1) + 1 - sigmoid(2)])
    assert gradients(APOZero(beta=1.0)) == pytest.approx([-0.25, 0.25])  # s (1 - s) where log-ratios are 0
    assert gradients(APODown(beta=1.0)) == pytest.approx([0, 0.25])


def gradients(loss: PreferenceLoss) -> list[float]:
    """In the log-probabilities of a chosen and a rejected response that are the reference's."""
    sides = torch.tensor([[-2.0], [-3.0]], requires_grad=True)
    lengths = torch.ones(1), torch.ones(1)
    loss(PairLogps.of(sides[0], sides[1], *sides.detach(), *lengths)).sum().backward()
    assert sides.grad is not None
    return list(sides.grad.flatten().tolist())


def test_nca_holds_the_chosen_response_where_dpo_looks_at_the_difference_alone() -> None:
    expected = -log(sigmoid(0.5)) - (log(sigmoid(-0.5)) + log(sigmoid(0.5))) / 2
    assert NCAPair(beta=0.5)(ONE).tolist() == pytest.approx([expected])
    assert gradients(NCAPair(beta=1.0)) == pytest.approx([-0.25, 0.25])  # -1/2 + 1/4 and 1/4


def test_sppo_has_a_target_for_each_response() -> None:
    assert SPPOHard(beta=0.25)(ONE).tolist() == pytest.approx([2.0])  # (1 - 2)^2 + (-1 + 2)^2
    assert SPPOHard(beta=0.5)(ONE).tolist() == pytest.approx([0.0])


def test_exo_is_the_divergence_to_a_smoothed_label() -> None:
    q = sigmoid(1)  # beta h
    expected = q * log(q / 0.75) + (1 - q) * log((1 - q) / 0.25)
    assert EXOPair(beta=0.5, epsilon=0.25)(ONE).tolist() == pytest.approx([expected], rel=1e-4)  # of near equals
    sure = pairs([log(3.0)], [0.0], [0.0], [0.0])
    assert EXOPair(beta=1.0, epsilon=0.25)(sure).tolist() == pytest.approx([0.0], abs=1e-6)  # q is 3/4 there


def test_normalised_dpo_compares_log_ratios_a_token() -> None:
    assert NormalisedDPO(beta=6.0)(ONE).tolist() == pytest.approx([-log(sigmoid(6 * (1 / 2 + 1 / 3)))])


def test_each_loss_is_one_file_of_under_30_lines() -> None:
    files = sorted(Path(rlhf_losses_extra.__file__).parent.glob("[!_]*.py"))
    assert len(files) == 13
    assert [file.name for file in files if file.read_text().count("\n") >= 30] == []
