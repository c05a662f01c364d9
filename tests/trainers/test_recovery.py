"""Out of memory anywhere in a step: the gradients, the loss and what is logged are those of an undisturbed step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from marks import slow
from memory_full import Full
from trl_rows import preference_dataset

from rlhf_plugins import RewardTrainer, RunError
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.data.batches.tokenized import tokenized_answers
from rlhf_plugins.engine.out_of_memory import out_of_memory
from rlhf_plugins.engine.weights.loading import load_causal, load_row_encoder, load_tokenizer, lora_config
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_pairs
from rlhf_plugins.trainers.arguments import arguments
from rlhf_plugins.trainers.preference.trainer import PreferenceTrainer
from rlhf_plugins.trainers.sft import SFTTrainer
from rlhf_plugins.trainers.steps import recovery
from rlhf_plugins.trainers.watching.supervision import Monitored, as_first_base

from .conftest import OPTIONS

Bases = Callable[..., Base]


def dpo(base: Base, folder: Path, tokens: int | None = None) -> Any:
    args = arguments(trl.DPOConfig, folder, 0, OPTIONS)
    given = {"train_dataset": preference_dataset(tiny_pairs(8)), "processing_class": load_tokenizer(base)}
    own: dict[str, Any] = {"loss": component("preference_loss", "dpo"), "tokens_per_batch": tokens}
    config = lora_config(Adapter(r=4), "CAUSAL_LM")
    return PreferenceTrainer(load_causal(base), None, args, **given, peft_config=config, **own)


def reward(base: Base, folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base.path, num_labels=1)
    args = arguments(trl.RewardConfig, folder, 0, OPTIONS)
    rows = preference_dataset(tiny_pairs(8))
    return RewardTrainer(model, args, train_dataset=rows, processing_class=load_tokenizer(base))


def sft(base: Base, folder: Path) -> Any:
    encoder = load_row_encoder(base)
    args = arguments(trl.SFTConfig, folder, 0, {**OPTIONS, "completion_only_loss": True})
    given = {"train_dataset": tokenized_answers(tiny_pairs(8), encoder).dataset, "processing_class": encoder.tokenizer}
    return SFTTrainer(load_causal(base), args, **given, peft_config=lora_config(Adapter(r=4), "CAUSAL_LM"))


def step(trainer: Any, under: Full, batches: int = 1) -> tuple[list[torch.Tensor], float, dict[str, list[float]]]:
    """The gradients, the loss, and what is noted for the log."""
    trainer.current_gradient_accumulation_steps = batches
    trainer.model.train().zero_grad()
    trainer._metrics["train"].clear()
    trainer._recovery = None
    rows = [row for _, row in zip(range(8), trainer.train_dataset, strict=False)]
    size = len(rows) // batches
    parts = [trainer.data_collator(rows[i * size : (i + 1) * size]) for i in range(batches)]
    with under:
        loss = sum(trainer.training_step(trainer.model, part).item() for part in parts)
    noted = {name: list(values) for name, values in trainer._metrics["train"].items() if name != "step_time"}
    return [w.grad.clone() for w in trainer.model.parameters() if w.grad is not None], loss, noted


def assert_equal(one: Any, other: Any) -> None:
    for mine, theirs in zip(one[0], other[0], strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6)
    assert one[1] == pytest.approx(other[1], rel=1e-5)
    assert one[2].keys() == other[2].keys()
    for name, values in other[2].items():
        assert one[2][name] == pytest.approx(values, rel=1e-4, abs=1e-6) or name == "num_tokens"


def assert_recovers(trainer: Any, every: int, batches: int = 1, first: int = 0) -> None:
    step(trainer, Full())  # tries layouts
    plain = step(trainer, under := Full(), batches)
    assert under.count > 100
    for at in range(first, under.count - 1, every):  # the last reads the loss
        if at not in under.sums[-2:]:  # of the losses of micro-batches
            assert_equal(step(trainer, Full(at), batches), plain)


@pytest.mark.parametrize("make", [*slow(dpo, reward), sft])
def test_at_operations_all_over_a_step(bases: Bases, tmp_path: Path, make: Callable[..., Any]) -> None:
    assert_recovers(make(bases(), tmp_path), every=399)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(12))
@pytest.mark.parametrize("make", [dpo, reward, sft])
def test_at_every_operation_of_a_step_in_turn(
    bases: Bases, tmp_path: Path, make: Callable[..., Any], first: int
) -> None:
    assert_recovers(make(bases(), tmp_path), every=12, first=first)


@pytest.mark.parametrize("few", slow(1.0, 0.0), ids=["set aside", "computed again"])
def test_gradients_of_earlier_micro_batches_are_kept(
    bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: float
) -> None:
    monkeypatch.setattr(recovery, "FEW", few)
    assert_recovers(dpo(bases(), tmp_path, tokens=40), every=947, batches=2)


def test_pieces_are_halved_until_they_fit_and_stay_so(
    bases: Bases, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = dpo(bases(), tmp_path)
    plain, vocabulary = step(trainer, Full()), trainer.model.config.vocab_size
    most = 12 * max(vocabulary, 64)
    assert_equal(step(trainer, Full(most=most)), plain)
    assert "out of memory with" in caplog.text
    caplog.clear()
    with Full(most=most):
        trainer.training_step(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    assert caplog.text == ""  # later batches are cut before they fail


def test_monitors_see_the_numbers_of_a_step_that_was_computed_again(bases: Bases, tmp_path: Path) -> None:
    trainer = dpo(bases(), tmp_path)
    trainer.__class__ = as_first_base(Monitored, type(trainer))
    trainer._show = lambda step: None
    seen = []
    for under in (Full(), Full(), Full(at=399)):  # the first tries layouts
        trainer.step_numbers = defaultdict(list)
        step(trainer, under)
        seen.append({name: sum(values) / len(values) for name, values in trainer.step_numbers.items() if values})
    assert "rewards/margins" in seen[1]
    assert seen[2] == pytest.approx(seen[1], rel=1e-4, abs=1e-6)


def test_one_row_that_does_not_fit_is_one_line(bases: Bases, tmp_path: Path) -> None:
    trainer = dpo(bases(), tmp_path)
    with pytest.raises(RunError, match="one row of .* tokens is too much; write a smaller max_length"):
        step(trainer, Full(most=0))


def test_other_errors_are_not_repeated(bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    trainer = dpo(bases(), tmp_path)
    monkeypatch.setattr(trainer, "compute_loss", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        step(trainer, Full())


def test_what_counts_as_out_of_memory() -> None:
    assert out_of_memory(torch.OutOfMemoryError("x"))
    assert out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not out_of_memory(RuntimeError("expected scalar type Float"))
    assert not out_of_memory(ValueError("CUDA out of memory"))
