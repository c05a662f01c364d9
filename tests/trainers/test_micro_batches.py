"""A batch in micro-batches trains as the whole batch does: the same losses, weights and curves, less memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trl
from trl_rows import preference_dataset

from rlhf_plugins import RewardTrainer
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.data.batches.branches import Layout, PromptBranches
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer, load_trunk, lora_config
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.testing import tiny_pairs
from rlhf_plugins.trainers.arguments import arguments
from rlhf_plugins.trainers.preference import trainer as preference
from rlhf_plugins.trainers.steps.micro_batches import in_micro_batches, token_limit

from .conftest import OPTIONS, furthest, losses, ranked, reward_trainer, trained

Bases = Callable[..., Base]


def cut(tokens: int | None, *rows: tuple[int, int]) -> Any:
    """The rows, each (prompt, response) in tokens, by micro-batch."""
    found = in_micro_batches(
        [{"n": row} for row in rows],
        lambda row: [PromptBranches([1] * row["n"][0], [[2] * row["n"][1]])],
        tokens,
        Layout.PACKED,
        lambda some: {"rows": [row["n"] for row in some]},
    )
    parts = found.get("micro_batches")
    return found["rows"] if parts is None else [(part["rows"], float(part["share"])) for part in parts]


def test_micro_batches_by_hand() -> None:
    rows = (2, 1), (1, 1), (4, 4), (1, 1)
    assert cut(None, *rows) == cut(15, *rows) == list(rows)
    assert cut(5, *rows) == [([(2, 1), (1, 1)], 0.5), ([(4, 4)], 0.25), ([(1, 1)], 0.25)]  # one alone may have more


def dpo(base: Base, folder: Path, tokens: int | None, **options: Any) -> preference.PreferenceTrainer:
    args = arguments(trl.DPOConfig, folder, 0, {**OPTIONS, **options})
    own = {"loss": component("preference_loss", "dpo"), "tokens_per_batch": tokens}
    given = {"train_dataset": preference_dataset(tiny_pairs(24)), "processing_class": load_tokenizer(base)}
    adapter = lora_config(Adapter(r=4), "CAUSAL_LM")
    return preference.PreferenceTrainer(load_causal(base), None, args, **given, peft_config=adapter, **own)


def rewards(base: Base, folder: Path, tokens: int | None, loss: str = "bradley_terry") -> RewardTrainer:
    torch.manual_seed(0)
    model = RewardModel(load_trunk(base), component("pooling", "last_token"), component("reward_head", "scalar"))
    args = arguments(trl.RewardConfig, folder, 0, OPTIONS)
    rows = ranked(base, tiny_pairs(24))
    return reward_trainer(
        model, component("reward_loss", loss), args, rows, load_tokenizer(base), tokens_per_batch=tokens
    )


@pytest.mark.parametrize("make", [dpo, rewards])
def test_a_batch_in_micro_batches_is_the_same_batch(bases: Bases, tmp_path: Path, make: Callable[..., Any]) -> None:
    whole, parts = make(bases(), tmp_path, None), make(bases(), tmp_path, 20)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    assert furthest(trained(parts), trained(whole)) < 1e-5
    last = [[entry["accuracy"] for entry in t.state.log_history if "accuracy" in entry] for t in (whole, parts)]
    assert last[0] == pytest.approx(last[1])


@pytest.mark.slow
def test_so_is_one_whose_reference_is_computed_before(bases: Bases, tmp_path: Path) -> None:
    options = {"precompute_ref_log_probs": True, "gradient_accumulation_steps": 2, "max_steps": 3}
    assert losses(dpo(bases(), tmp_path, 20, **options)) == pytest.approx(
        losses(dpo(bases(), tmp_path, None, **options))
    )


def test_no_more_tokens_are_in_memory_at_once(bases: Bases, tmp_path: Path) -> None:
    trainer, seen = dpo(bases(), tmp_path, 30), []
    count = trainer._pair_logps
    trainer._pair_logps = lambda model, inputs: seen.append(inputs["input_ids"].numel()) or count(model, inputs)
    trainer.train()
    assert len(seen) > 2 * trainer.args.max_steps  # of each micro-batch the policy and the reference
    assert max(seen) <= 30


@pytest.mark.parametrize(("loss", "whole"), [("bradley_terry", False), ("sum", True), ("contrastive", True)])
def test_a_loss_that_uses_batch_mates_is_given_its_whole_batch(loss: str, whole: bool) -> None:
    words = {"use": "sum", "losses": ["bradley_terry", "contrastive"]} if loss == "sum" else loss
    assert component("reward_loss", words).uses_batch_mates is whole


@pytest.mark.parametrize(
    ("optim", "limit"), [("adamw_torch", 9), ("galore_adamw_layerwise", None), ("lomo", None), ("apollo_adamw", 9)]
)
def test_optimizers_that_step_within_the_backward_pass_are_given_whole_batches(optim: str, limit: int | None) -> None:
    assert token_limit(9, SimpleNamespace(optim=optim, deepspeed=None)) == limit  # type: ignore[arg-type]
