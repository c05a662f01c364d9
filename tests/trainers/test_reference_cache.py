"""The reference's log-probabilities are computed once, and remembered by what they are of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from marks import slow
from peft import LoraConfig, get_peft_model
from torch import tensor
from trl_rows import preference_dataset

from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.engine.passes import Passes as passes_of
from rlhf_plugins.engine.weights.loading import base_weights, load_causal, load_tokenizer, lora_config
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.reward_models.score_cache import files_identity, weights_identity
from rlhf_plugins.testing import tiny_pairs
from rlhf_plugins.trainers.arguments import arguments
from rlhf_plugins.trainers.preference import reference
from rlhf_plugins.trainers.preference.trainer import PreferenceTrainer

from .conftest import OPTIONS, losses

Bases = Callable[..., Base]


def trainer(base: Base, folder: Path, loss: str = "dpo", adapter: bool = True, **options: Any) -> PreferenceTrainer:
    identity = options.pop("identity", None)
    args = arguments(trl.DPOConfig, folder / "run", 0, {**OPTIONS, "precompute_ref_log_probs": True, **options})
    data, config = preference_dataset(tiny_pairs(24)), lora_config(Adapter(r=4), "CAUSAL_LM") if adapter else None
    own = {"loss": component("preference_loss", loss), "reference_cache": folder / "reference.sqlite"}
    own |= {"reference_identity": identity}
    given = {"train_dataset": data, "processing_class": load_tokenizer(base), "peft_config": config}
    return PreferenceTrainer(load_causal(base), None, args, **given, **own)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many responses each look at the reference took."""
    seen: list[int] = []
    look = PreferenceTrainer._summed
    monkeypatch.setattr(
        PreferenceTrainer, "_summed", lambda self, some: seen.append(len(some.responses)) or look(self, some)
    )
    return seen


@pytest.mark.parametrize("adapter", [True, *slow(False)], ids=["lora", "full"])
def test_they_are_those_that_trl_computes_at_every_step(bases: Bases, tmp_path: Path, adapter: bool) -> None:
    before = losses(trainer(bases(), tmp_path, adapter=adapter))
    args = arguments(trl.DPOConfig, tmp_path, 0, OPTIONS)
    reference = None if adapter else load_causal(bases())
    config = lora_config(Adapter(r=4), "CAUSAL_LM") if adapter else None
    given = {"processing_class": load_tokenizer(bases()), "train_dataset": preference_dataset(tiny_pairs(24))}
    stock = trl.DPOTrainer(model=load_causal(bases()), ref_model=reference, args=args, peft_config=config, **given)
    assert before == pytest.approx(losses(stock), rel=1e-4, abs=1e-5)


def test_another_loss_and_a_later_run_compute_none(bases: Bases, tmp_path: Path, passes: list[int]) -> None:
    first = losses(trainer(bases(), tmp_path))
    assert passes == [48]
    trainer(bases(), tmp_path, "ipo")
    assert losses(trainer(bases(), tmp_path)) == first
    assert passes == [48]


def test_other_weights_or_rows_are_computed_anew(bases: Bases, tmp_path: Path, passes: list[int]) -> None:
    trainer(bases(), tmp_path)
    trainer(bases(seed=1), tmp_path)
    trainer(bases(), tmp_path, max_length=6)
    assert passes[:2] == [48, 48]
    assert 0 < passes[2] < 48  # those that were not cut are known


def test_weights_are_known_by_their_bytes_not_their_name(bases: Bases, tmp_path: Path) -> None:
    model = load_causal(bases())
    model.save_pretrained(tmp_path)
    again = load_causal(Base(str(tmp_path)))
    assert weights_identity(model) == weights_identity(again) != weights_identity(again, "bf16")
    with torch.no_grad():
        next(again.parameters()).view(-1)[0] += 1e-6
    assert weights_identity(model) != weights_identity(again)


def test_weights_below_an_adapter_are_known_as_those_without_one(bases: Bases) -> None:
    plain = base_weights(load_causal(bases()))
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], modules_to_save=["embed_tokens"], use_dora=True)
    below = base_weights(get_peft_model(load_causal(bases()), config))
    assert below.keys() == plain.keys()
    assert all(torch.equal(below[name], weights) for name, weights in plain.items())


def test_the_same_base_without_an_adapter_computes_none(bases: Bases, tmp_path: Path, passes: list[int]) -> None:
    trainer(bases(), tmp_path)
    trainer(bases(), tmp_path, adapter=False)
    assert passes == [48]


def test_a_reference_that_is_known_by_its_files_is_not_hashed(
    bases: Bases, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(bases().path)
    known = files_identity([folder], "bf16")
    assert known == files_identity([folder], "bf16") != files_identity([folder], "fp16")
    assert files_identity(["owner/model"]) is None
    monkeypatch.setattr(PreferenceTrainer, "_identity", lambda _: pytest.fail("weights were hashed"))
    for _ in range(2):
        trainer(bases(), tmp_path, identity=known)
    assert passes == [48]


def test_a_second_model_is_known_by_its_own_weights_and_read_without_gradients(
    bases: Bases, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In passes of no more tokens than a batch may have."""
    limits: list[int] = []
    monkeypatch.setattr(reference, "Passes", lambda *given: limits.append(given[3]) or passes_of(*given))
    args = arguments(trl.DPOConfig, tmp_path / "run", 0, {**OPTIONS, "precompute_ref_log_probs": True})
    for seed in (0, 1):
        trainer = PreferenceTrainer(
            load_causal(bases()),
            load_causal(bases(seed=seed)),
            args,
            train_dataset=preference_dataset(tiny_pairs(24)),
            processing_class=load_tokenizer(bases()),
            reference_cache=tmp_path / "reference.sqlite",
            tokens_per_batch=40,
        )
    assert passes == [48, 48]
    assert limits == [40, 40]
    batch = trainer.data_collator(list(trainer.train_dataset))
    known = (
        tensor([row[name] for row in trainer.train_dataset]) for name in ("ref_chosen_logps", "ref_rejected_logps")
    )
    for found, expected in zip(trainer.compute_ref_log_probs(trainer.model, batch), known, strict=True):
        assert not found.requires_grad
        torch.testing.assert_close(found, expected)
