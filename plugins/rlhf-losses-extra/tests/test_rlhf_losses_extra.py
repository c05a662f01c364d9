"""Each loss against arithmetic worked by hand; what must hold of any loss is tried by the conformance kit."""

from __future__ import annotations

from math import exp, log
from pathlib import Path

import pytest
import rlhf_losses_extra
import torch
from rlhf_losses_extra.aot import AOT
from rlhf_losses_extra.cdpo import CDPO
from rlhf_losses_extra.dpo_hinge import HingeDPO
from rlhf_losses_extra.dpo_robust import RobustDPO
from rlhf_losses_extra.kto_pairs import KTOPairs
from rlhf_losses_extra.orpo import ORPO
from rlhf_losses_extra.simpo import SimPO

from rlhf_plugins import PairLogps


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


def test_each_loss_is_one_file_of_under_30_lines() -> None:
    files = sorted(Path(rlhf_losses_extra.__file__).parent.glob("[!_]*.py"))
    assert len(files) == 7
    assert [file.name for file in files if file.read_text().count("\n") >= 30] == []
