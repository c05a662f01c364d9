"""Soft labels from a row to a gradient: cases by hand, and losses that ignore them are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import erf, log, sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import tensor
from torch.testing import assert_close
from trl_rows import preference_dataset

from rlhf_plugins import (
    Base,
    Comparison,
    DataError,
    Group,
    PairLogps,
    RankedScores,
    RecipeError,
    RunError,
    check_recipe,
)
from rlhf_plugins.arithmetic.ranking import comparisons, pairs
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base, tiny_pairs, tiny_run

GAP = log(3)  # sigmoid is 3/4, so -log sigmoid(d) = log(4/3) and -log sigmoid(-d) = log 4
SCORES = tensor([[GAP, 0.0]])
PHI = (1 + erf(GAP / sqrt(2))) / 2
FEW = {"max_steps": 2, "logging_steps": 1, "learning_rate": 1e-2, "disable_tqdm": True}


def soft(p: float, **more: Any) -> RankedScores:
    return RankedScores.of(
        SCORES, probability=tensor([p]), prediction=Prediction(SCORES, torch.full((1, 2), 0.5)), **more
    )


def softened(groups: Sequence[Group], p: float) -> list[Group]:
    judged = (Comparison(0, 1, tied=p == 0.5, probability=p),)
    return [replace(group, ranks=None, compared=judged) for group in groups]


@pytest.mark.parametrize(
    ("loss", "more", "expected"),
    [
        ("bradley_terry", {}, 0.8 * log(4 / 3) + 0.2 * log(4)),
        ("bradley_terry_margin", {"margin": tensor([GAP])}, log(2)),  # d - m = 0
        ({"use": "label_smoothed", "epsilon": 0.25}, {}, 0.65 * log(4 / 3) + 0.35 * log(4)),  # 3/4 0.8 + 1/4 0.2
        ({"use": "margin", "margin": 2.0}, {}, 0.8 * (2 - GAP) + 0.2 * (2 + GAP)),
        ("thurstone", {}, -0.8 * log(PHI) - 0.2 * log(1 - PHI)),  # variances of 1/2 each
        ({"use": "weighted", "by": "difficulty"}, {}, (0.8 - 0.75) * (0.8 * log(4 / 3) + 0.2 * log(4))),
    ],
)
def test_reward_losses_by_hand(loss: Any, more: dict[str, Any], expected: float) -> None:
    acting = component("reward_loss", loss).acting()
    assert_close(acting(soft(0.8, **more)), tensor([expected]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ({"use": "dpo", "beta": 0.5}, 0.8 * log(4 / 3) + 0.2 * log(4)),  # h = 2 log 3, of which beta takes half
        ({"use": "dpo_margin", "beta": 0.5, "alpha": 0.5}, log(2)),  # beta h = log 3, of which the margin takes all
        ({"use": "ipo", "beta": 0.25}, 0.8 * (2 * GAP - 2) ** 2 + 0.2 * (2 * GAP + 2) ** 2),
        ({"use": "ipo_per_token", "beta": 0.25}, 0.8 * (GAP - 2) ** 2 + 0.2 * (GAP + 2) ** 2),  # two tokens each
    ],
)
def test_preference_losses_by_hand(loss: dict[str, Any], expected: float) -> None:
    zero, two = torch.zeros(1), torch.full((1,), 2)
    known = {"probability": tensor([0.8]), "margin": tensor([2 * GAP])}
    logps = PairLogps.of(tensor([2 * GAP]), zero, zero, zero, two, two, **known)
    assert_close(component("preference_loss", loss)(logps), tensor([expected]))


def test_bradley_terry_is_least_where_it_says_what_people_say() -> None:
    gap = tensor([[GAP, 0.0]], requires_grad=True)
    component("reward_loss", "bradley_terry")(RankedScores.of(gap, probability=tensor([0.75]))).sum().backward()
    assert gap.grad is not None
    assert gap.grad.abs().max() < 1e-6


def test_ranks_are_certain_and_ties_are_even() -> None:
    scores = RankedScores.of(torch.zeros(2, 3), ranks=tensor([[0, 1, 1], [0, 1, 2]]))
    assert comparisons(scores, ties=True).probability.tolist() == [1, 1, 0.5, 1, 1, 1]
    assert pairs(scores, comparisons(scores, ties=True)).probability.tolist() == [1, 1, 0.5, 1, 1, 1]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("stage", ["reward", "preference"])
def test_a_soft_label_changes_a_training(base: Base, tmp_path: Path, stage: str) -> None:
    losses = []
    for p in (1.0, 0.75, 0.6):
        run = tiny_run(base, tmp_path / str(p), softened(tiny_pairs(8), p))
        losses.append(component("stage", {"use": stage, "trainer": FEW}).run(run).curves["loss"].points[-1][1])
    assert len(set(losses)) == 3


def test_labels_that_prefer_nothing_teach_a_policy_nothing(base: Base, tmp_path: Path) -> None:
    run = tiny_run(base, tmp_path, softened(tiny_pairs(8), 0.5))
    with pytest.raises(RunError, match="the gradient was 0 at every step, .*: no label prefers anything"):
        component("stage", {"use": "preference", "trainer": FEW}).run(run)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"use": "reward", "loss": "plackett_luce"}, "reward_loss plackett_luce ignores soft labels"),
        ({"use": "reward", "loss": {"use": "sum", "losses": ["bradley_terry", "contrastive"]}}, "contrastive ignores"),
        ({"use": "preference", "loss": "simpo"}, "preference_loss simpo ignores soft labels"),
    ],
)
def test_a_loss_that_ignores_them_is_refused(tmp_path: Path, stage: dict[str, Any], message: str) -> None:
    run = tiny_run(Base("none"), tmp_path, [*softened(tiny_pairs(1), 0.75), *tiny_pairs(2)])
    with pytest.raises(DataError, match=message):
        run.train(stage, name="refused")


def test_the_check_of_a_recipe_finds_a_loss_that_ignores_them(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p", "chosen": "a", "rejected": "b", "probability": 0.7}\n')
    (tmp_path / "recipe.yaml").write_text(
        f"base: sandbox\ndata: {{format: preference, source: {tmp_path}/rows.jsonl}}\n"
        "stages: [{stage: reward, loss: plackett_luce}]\n"
    )
    with pytest.raises(RecipeError, match=r"stages.0.loss: reward_loss plackett_luce ignores soft labels"):
        check_recipe(tmp_path / "recipe.yaml")


def test_pairs_of_a_policy_keep_them() -> None:
    rows = preference_dataset([*softened(tiny_pairs(1), 0.75), *tiny_pairs(1, seed=1)])
    assert rows["probability"][:] == [0.75, 1.0]
    assert "margin" not in rows.column_names
