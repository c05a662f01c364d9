"""What is logged of pairs and of labelled responses, where batches have other numbers of them. Worked by hand."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_plugins.arithmetic.ranking import map_tensors
from rlhf_plugins.contract.records import PairLogps
from rlhf_plugins.contract.run import Base
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.trainers.preference.metrics import Means, label_sums, pair_sums, unit

from .test_preference_script import OURS, rows, script

Bases = Callable[..., Base]


def labelled(logps: list[float], labels: list[float]) -> PairLogps:
    """Responses under a reference of which each has log-probability 0."""
    chosen = torch.tensor(logps)
    zero, one = torch.zeros_like(chosen), torch.ones_like(chosen)
    return PairLogps.of(chosen, zero - 4, zero, zero, one, one, probability=torch.tensor(labels))


def test_a_mean_of_labels_is_over_the_responses_that_have_the_label() -> None:
    """1/2 (-1 - 3) / 2 = -1 of two; of soft labels 1/2 (1/4 (-2) + 1/2 (-8)) / (3/4) = -3, of 3/4 of a response."""
    means = Means()
    means.add(label_sums(labelled([-1.0, -3.0], [1.0, 1.0]), ("rewards", 0.5)))
    found = means.take()
    assert (found["rewards/chosen"], found["logps/chosen"], found["kl"]) == ((-1.0, 2), (-2.0, 2), (-4.0, 2))
    assert not found.keys() & {"rewards/rejected", "logps/rejected"}  # of none there is no mean
    means.add(label_sums(labelled([-2.0, -8.0], [0.25, 0.5]), ("rewards", 0.5)))
    assert means.take()["rewards/chosen"] == (-3.0, 1)


def test_numbers_of_micro_batches_are_means_over_the_batch() -> None:
    """Under a reference of -1: log-ratios of -1 (good), -3 and -5; of tokens 6 + 2 over 4 + 1, of 2 + 1 rows."""
    means, under = Means(), -torch.ones(3)
    of_rows = replace(labelled([-2.0, -4.0, -6.0], [1.0, 0.0, 0.0]), ref_chosen=under, ref_rejected=1.5 * under)
    for part, size, (total, count) in ((slice(2), 2, (6.0, 4)), (slice(2, 3), 1, (2.0, 1))):
        means.add(label_sums(map_tensors(of_rows, operator.itemgetter(part)), ("rewards", 0.5)))
        means.add({"entropy": (torch.tensor(total), torch.tensor(count))}, rows=size)
    assert means.take() == {
        "rewards/chosen": (-0.5, 1),
        "rewards/rejected": (-2.0, 2),
        "logps/chosen": (-2.0, 1),
        "logps/rejected": (-5.0, 2),
        "kl": (-2.5, 3),
        "entropy": (1.6, 3),
    }
    assert means.take() == {}


def summed(*losses: dict[str, Any]) -> Any:
    return component("preference_loss", {"use": "sum", "losses": list(losses), "weights": [1.0] * len(losses)})


HALF, TENTH, NONE = {"use": "dpo", "beta": 0.5}, {"use": "ipo", "beta": 0.1}, {"use": "reference_kl"}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([HALF], ("rewards", 0.5)),
        ([HALF, NONE, {"use": "sum", "losses": [HALF, NONE]}], ("rewards", 0.5)),
        ([HALF, {"use": "sum", "losses": [TENTH, NONE]}], ("log_ratios", 1.0)),
        ([NONE], ("log_ratios", 1.0)),
    ],
)
def test_rewards_have_the_beta_in_which_all_parts_agree(parts: Any, expected: tuple[str, float]) -> None:
    assert unit(summed(*parts)) == expected
    stage = replace(component("stage", "preference"), loss=summed(*parts))
    assert f"{expected[0]}/margins" in stage.held_out_numbers(False)


def test_without_a_beta_log_ratios_are_logged() -> None:
    """Of chosen 2 and -1, of rejected -4 and -4 nats."""
    logps = labelled([2.0, -1.0], [1.0, 1.0])
    found = {name: float(total / count) for name, (total, count) in pair_sums(logps, ("log_ratios", 1.0)).items()}
    assert found == {
        "log_ratios/chosen": 0.5,
        "log_ratios/rejected": -4.0,
        "log_ratios/margins": 4.5,
        "rewards/accuracies": 1.0,
        "logps/chosen": 0.5,
        "logps/rejected": -4.0,
    }


def test_a_sum_logs_the_rewards_of_its_parts(bases: Bases, tmp_path: Path) -> None:
    """Once the policy is at a distance, so that rewards are not 0; before, those of a sum were in TRL's beta of 0.1."""
    options = {"max_steps": 2, "learning_rate": 3e-2}
    found = []
    for part in (component("preference_loss", HALF), summed(HALF)):
        trainer = script(OURS, bases(), tmp_path, options, loss=part)
        trainer.train()
        found.append([line["rewards/margins"] for line in trainer.state.log_history if "loss" in line])
    assert found[0] == pytest.approx(found[1])
    assert abs(found[0][-1]) > 1e-3


def test_held_out_numbers_are_means_over_pairs(bases: Bases, tmp_path: Path) -> None:
    """Of three pairs, in batches of two and one, the numbers are those of one batch of three."""
    options = {"per_device_eval_batch_size": 2, "max_steps": 2, "learning_rate": 3e-2}
    trainer = script(OURS, bases(), tmp_path, options, eval_dataset=rows(3, 1))
    trainer.train()
    parts = trainer.evaluate()
    trainer.args.per_device_eval_batch_size = 3
    whole = trainer.evaluate()
    names = [f"eval_{name}" for name in ("loss", "rewards/margins", "rewards/accuracies", "logps/chosen")]
    assert [parts[name] for name in names] == pytest.approx([whole[name] for name in names], rel=1e-5)
    assert parts["eval_loss"] != pytest.approx(0.6931, abs=1e-2)  # it really trained
