"""Weights of supervised rows: the loss by hand, weights of 1, and what does not go with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_plugins import RunError
from rlhf_plugins.contract.rows import Data, Group
from rlhf_plugins.contract.run import Base
from rlhf_plugins.data.batches.tokenized import tokenized_answers
from rlhf_plugins.engine.weights.loading import load_causal, load_row_encoder
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_base, tiny_run
from rlhf_plugins.trainers.arguments import arguments
from rlhf_plugins.trainers.sft import SFTTrainer

from .conftest import OPTIONS

ROWS = (Group("who\n", ("ant bee",)), Group("how is\n", ("gas",)), Group("the\n", ("ice jam key",)))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return tiny_base(tmp_path_factory.mktemp("base"))


def trainer(base: Base, folder: Path, weights: list[float], **options: Any) -> SFTTrainer:
    encoder = load_row_encoder(base)
    rows = [replace(group, weight=weight) for group, weight in zip(ROWS, weights, strict=True)]
    args = arguments(trl.SFTConfig, folder, 0, {**OPTIONS, "completion_only_loss": True, **options})
    given: dict[str, Any] = {"train_dataset": tokenized_answers(rows, encoder).dataset}
    return SFTTrainer(load_causal(base), args, **given, processing_class=encoder.tokenizer)


def loss(found: SFTTrainer, rows: Any = None) -> float:
    """Of one training step over all rows."""
    found.current_gradient_accumulation_steps = 1
    found.model.train().zero_grad()
    return float(found.training_step(found.model, found.data_collator(rows or list(found.train_dataset))))


def nats(base: Base, folder: Path) -> tuple[list[float], int]:
    """-log p of each response, and the number of all their tokens, with the handle of the policy."""
    policy = tiny_run(base, folder).policy()
    samples = policy.encode([g.prompt for g in ROWS], [g.responses[0] for g in ROWS])
    return (-policy.log_probs(samples).sum(1)).tolist(), sum(map(len, samples.response_ids))


def test_the_loss_by_hand(base: Base, tmp_path: Path) -> None:
    (a, b, c), tokens = nats(base, tmp_path / "run")
    assert tokens == 9  # with their ends
    assert loss(trainer(base, tmp_path, [2.0, 0.5, 1.0])) == pytest.approx((2 * a + 0.5 * b + c) / 9, rel=1e-5)


def test_weights_of_one_change_nothing(base: Base, tmp_path: Path) -> None:
    plain, weighed = trainer(base, tmp_path, [1.0, 1.0, 1.0]), trainer(base, tmp_path, [1.0, 1.0, 2.0])
    assert "weight" not in plain.train_dataset.column_names
    ones = [{**row, "weight": 1.0} for row in weighed.train_dataset]
    assert loss(weighed, ones) == pytest.approx(loss(plain), rel=1e-6)
    mine, theirs = ([w.grad for w in one.model.parameters()] for one in (weighed, plain))
    torch.testing.assert_close(mine, theirs)


@pytest.fixture(scope="module")
def found(base: Base, tmp_path_factory: pytest.TempPathFactory) -> SFTTrainer:
    return trainer(base, tmp_path_factory.mktemp("made"), [1.0, 1.0, 2.0])


@settings(max_examples=5, deadline=None)
@given(weights=st.lists(st.sampled_from([0.25, 1.5, 3.0]), min_size=3, max_size=3))
def test_a_row_counts_in_proportion_to_its_weight(found: SFTTrainer, weights: list[float]) -> None:
    rows = [{**row, "weight": weight} for row, weight in zip(found.train_dataset, weights, strict=True)]
    parts = [{**row, "weight": float(i == j)} for i in range(3) for j, row in enumerate(rows)]
    alone = [loss(found, parts[3 * i : 3 * i + 3]) for i in range(3)]
    assert loss(found, rows) == pytest.approx(sum(w * one for w, one in zip(weights, alone, strict=True)), rel=1e-5)


def stage(base: Base, folder: Path, weights: list[float], **options: Any) -> Any:
    """The result of the stage on the rows with these weights."""
    rows = tuple(replace(group, weight=weight) for group, weight in zip(ROWS, weights, strict=True))
    given = {"max_steps": 1, "logging_steps": 1, "report_to": "none", **options}
    return component("stage", {"use": "sft", "trainer": given}).run(replace(tiny_run(base, folder), data=Data(rows)))


def test_the_stage_trains_on_weights_and_counts_rows_of_none(base: Base, tmp_path: Path) -> None:
    nat, tokens = nats(base, tmp_path / "run")
    result = stage(base, tmp_path / "stage", [3.0, 0.0, 2.0])
    expected = (3 * nat[0] + 2 * nat[2]) / (tokens - 2)  # without those of the second
    assert result.curves["loss"].points[0][1] == pytest.approx(expected, rel=1e-3)
    assert result.report.left_out == {"weight 0": 1}


@pytest.mark.parametrize("options", [{"packing": True, "max_length": 64}, {"loss_type": "dft"}])
def test_what_does_not_go_with_weights_is_refused(base: Base, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=f"{next(iter(options))}: does not go with rows that have weights"):
        stage(base, tmp_path / "stage", [1.0, 2.0, 1.0], **options)
