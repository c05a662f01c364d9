"""Evaluation, checkpoints and the reference of a script are TRL's: evaluate(), compute_metrics, resume, adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from marks import slow
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, EvalPrediction, TrainerCallback

from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.engine.weights.loading import lora_config

from .test_preference_script import OURS, STOCK, assert_equal, lines, logged, rows, script

Bases = Callable[..., Base]
EVERY_2 = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 4}
ADAPTER = lora_config(Adapter(r=4), "CAUSAL_LM")


def token_metrics(found: EvalPrediction) -> dict[str, float]:
    """They depend on every logit and every id, and on the order of both."""
    weights = torch.arange(found.predictions.size).numpy().reshape(found.predictions.shape) % 97
    return {"logits": float((found.predictions * weights).mean()), "ids": float(found.label_ids.std(0).sum())}


def test_evaluation_while_training_is_trls(bases: Bases, tmp_path: Path) -> None:
    given = {"eval_dataset": rows(8, 1), "compute_metrics": token_metrics}
    found, expected = (logged(script(cls, bases(), tmp_path, EVERY_2, **given)) for cls in (OURS, STOCK))
    assert_equal(found, expected)
    assert {"eval_loss", "eval_rewards/margins", "eval_entropy", "eval_logits", "eval_ids"} <= found[2].keys()


def test_a_metric_gets_the_whole_of_a_last_batch_that_is_smaller(bases: Bases, tmp_path: Path) -> None:
    """Of three pairs in batches of two, TRL loses the rejected response of the last."""
    seen: list[int] = []

    def count(found: EvalPrediction) -> dict[str, float]:
        seen.append(len(found.predictions))
        return {}

    given = {"eval_dataset": rows(3, 1), "compute_metrics": count}
    ours, stock = (script(c, bases(), tmp_path, {"per_device_eval_batch_size": 2}, **given) for c in (OURS, STOCK))
    assert ours.evaluate()["eval_loss"] == pytest.approx(stock.evaluate()["eval_loss"], rel=1e-5)
    assert seen == [6, 5]


def test_parts_and_those_that_count_nothing_evaluate_as_the_whole_batch(
    bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process computes them that has fewer parts of a batch than another, where weights are in shards."""
    given = {"eval_dataset": rows(5, 1), "compute_metrics": token_metrics}
    whole, parts = (script(OURS, bases(), tmp_path, {}, tokens_per_batch=tokens, **given) for tokens in (None, 20))
    expected = whole.evaluate()
    uneven = "rlhf_plugins.trainers.preference.trainer.evened"
    monkeypatch.setattr(uneven, lambda parts, filler: [*parts, filler(parts[-1])])
    found = parts.evaluate()
    names = ("loss", "rewards/margins", "logps/chosen", "entropy", "logits", "ids")
    assert [found[f"eval_{name}"] for name in names] == pytest.approx(
        [expected[f"eval_{name}"] for name in names], rel=1e-4
    )


@pytest.mark.slow
def test_micro_batches_evaluate_as_whole_batches(bases: Bases, tmp_path: Path) -> None:
    given = {"eval_dataset": rows(10, 1), "compute_metrics": token_metrics}
    parts, whole = (
        script(OURS, bases(), tmp_path, {**EVERY_2, "max_length": 10}, **given, tokens_per_batch=tokens)
        for tokens in (20, None)
    )
    assert_equal(logged(parts), logged(whole))


@pytest.mark.parametrize("options", slow({}, {"precompute_ref_log_probs": True}), ids=["each step", "precomputed"])
def test_data_given_to_evaluate_are_trls(bases: Bases, tmp_path: Path, options: dict[str, Any]) -> None:
    def evaluated(cls: Any) -> list[dict[str, float]]:
        trainer = script(cls, bases(), tmp_path, options, peft_config=ADAPTER)
        logged(trainer)
        trainer.evaluate({"near": rows(8, 1), "far": rows(6, 2)})
        return lines(trainer)[-2:]

    found = evaluated(OURS)
    assert_equal(found, evaluated(STOCK))
    assert {"eval_near_loss", "eval_rewards/margins"} <= found[0].keys()


@pytest.mark.parametrize("sets", [lambda: rows(8, 1), lambda: {"near": rows(8, 1)}], ids=["one", "named"])
def test_a_policy_that_was_its_own_reference_is_held_out_against_what_it_was(
    bases: Bases, tmp_path: Path, sets: Callable[[], Any]
) -> None:
    """Its weights are all trained, so that the reference of held-out rows is gone after the first step."""
    options = {**EVERY_2, "precompute_ref_log_probs": True, "max_steps": 2}
    found, expected = (logged(script(cls, bases(), tmp_path, options, eval_dataset=sets())) for cls in (OURS, STOCK))
    for first in (found[0], expected[0]):
        del first["rewards/accuracies"]  # of equal rewards, to rounding
    assert_equal(found, expected)
    (margins,) = [line[name] for line in found for name in line if name.startswith("eval_") and "margins" in name]
    assert abs(margins) > 1e-4


def test_responses_that_nothing_predicts_are_of_log_probability_0_as_with_trl(bases: Bases, tmp_path: Path) -> None:
    """A single token without a prompt, now and from the file of the reference."""
    some = [
        {"prompt": "", "chosen": "ant bee", "rejected": ""},
        {"prompt": "who ", "chosen": "ant", "rejected": "mud fox"},
    ]
    train, kept = Dataset.from_list(some * 4), {"precompute_ref_log_probs": True}
    stock, ours = (script(cls, bases(), tmp_path, {}, train=train) for cls in (STOCK, OURS))
    cached = script(OURS, bases(), tmp_path, kept, train=train, reference_cache=tmp_path / "reference.sqlite")
    assert cached.data_collator(list(cached.train_dataset))["scored"].sum() == 12  # of 16
    found = [logged(trainer) for trainer in (stock, ours, cached)]
    for line in (line for each in found for line in each):
        line.pop("num_tokens", None)  # ours counts the padding that takes the place of a response
    assert_equal(found[1], found[0])
    assert_equal(found[2], found[0])


def test_streamed_rows_train_and_evaluate_as_with_trl(bases: Bases, tmp_path: Path) -> None:
    def trained(cls: Any) -> list[dict[str, float]]:
        given = {"train": rows().to_iterable_dataset(), "eval_dataset": rows(8, 1).to_iterable_dataset()}
        return logged(script(cls, bases(), tmp_path, EVERY_2, **given))

    assert_equal(trained(OURS), trained(STOCK))


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("adapter", [*slow(None), ADAPTER], ids=["full", "lora"])
def test_checkpoints_have_trls_files_and_resume(bases: Bases, tmp_path: Path, adapter: Any) -> None:
    folders = {cls: tmp_path / cls.__name__ for cls in (OURS, STOCK)}
    options = {"save_strategy": "steps", "save_steps": 2}
    found = {cls: logged(script(cls, bases(), folder, options, peft_config=adapter)) for cls, folder in folders.items()}
    assert files(folders[OURS]) == files(folders[STOCK])
    again = script(OURS, bases(), folders[OURS], options, peft_config=adapter)
    again.train(resume_from_checkpoint=str(folders[OURS] / "checkpoint-2"))
    resumed = [line for line in again.state.log_history if line["step"] > 2 and "loss" in line]
    losses = [line["loss"] for line in found[OURS] if "loss" in line][2:]
    assert [line["loss"] for line in resumed] == pytest.approx(losses, rel=1e-4)


def test_a_checkpoint_opens_with_transformers_alone(bases: Bases, tmp_path: Path) -> None:
    trainer = script(OURS, bases(), tmp_path, {"save_strategy": "steps", "save_steps": 4})
    trainer.train()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-4").state_dict()
    for name, weights in trainer.model.state_dict().items():
        assert torch.equal(plain[name], weights)


def adapted(base: Base) -> PeftModel:
    """A model whose adapter was trained before."""
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base.path), ADAPTER)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.1)
    return model


@pytest.mark.parametrize("precomputed", [False, *slow(True)])
def test_an_adapter_that_is_trained_on_has_a_copy_as_its_reference(
    bases: Bases, tmp_path: Path, precomputed: bool
) -> None:
    def trained(cls: Any) -> list[dict[str, float]]:
        tokenizer = AutoTokenizer.from_pretrained(bases().path)
        given = {"model": adapted(bases()), "processing_class": tokenizer}
        return logged(script(cls, bases(), tmp_path, {"precompute_ref_log_probs": precomputed}, **given))

    found, expected = trained(OURS), trained(STOCK)
    assert found[0].pop("rewards/accuracies") is not None  # of equal rewards, to rounding
    expected[0].pop("rewards/accuracies")
    assert_equal(found, expected)
    assert found[0]["loss"] == pytest.approx(0.6931, abs=1e-4)


def test_a_reference_that_follows_the_policy_is_never_remembered(bases: Bases, tmp_path: Path) -> None:
    options = {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5}
    found, expected = (logged(script(cls, bases(), tmp_path, options)) for cls in (OURS, STOCK))
    assert_equal(found, expected)
    with pytest.raises(ValueError, match="sync_ref_model"):
        script(OURS, bases(), tmp_path, {**options, "precompute_ref_log_probs": True}, reference_cache=tmp_path / "a")


def test_callbacks_and_optimizers_are_the_scripts(bases: Bases, tmp_path: Path) -> None:
    seen: list[int] = []

    class Steps(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seen.append(state.global_step)

    model = AutoModelForCausalLM.from_pretrained(bases().path)
    given = {"model": model, "processing_class": AutoTokenizer.from_pretrained(bases().path), "callbacks": [Steps()]}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = script(OURS, bases(), tmp_path, {"max_steps": 2}, **given, optimizers=(optimizer, None))
    trainer.train()
    assert (seen, trainer.optimizer.optimizer) == ([1, 2], optimizer)


TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


@pytest.mark.slow
def test_messages_train_as_with_trl(bases: Bases, tmp_path: Path) -> None:
    def said(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    def trained(cls: Any) -> list[dict[str, float]]:
        tokenizer = AutoTokenizer.from_pretrained(bases().path)
        tokenizer.chat_template = TEMPLATE
        asked = [
            {"prompt": said("user", row["prompt"]), **{s: said("assistant", row[s]) for s in ("chosen", "rejected")}}
            for row in rows()
        ]
        return logged(script(cls, bases(), tmp_path, {}, train=Dataset.from_list(asked), processing_class=tokenizer))

    assert_equal(trained(OURS), trained(STOCK))


def test_texts_without_a_prompt_train_as_with_trl(bases: Bases, tmp_path: Path) -> None:
    """TRL takes their common beginning for the prompt; some have none, and then nothing predicts their first token."""
    whole = [{s: row["prompt"] * (i % 2) + row[s] for s in ("chosen", "rejected")} for i, row in enumerate(rows())]
    given = {"train": Dataset.from_list(whole)}
    options = {"loss_type": ["ipo"]}
    assert_equal(*(logged(script(cls, bases(), tmp_path, options, **given)) for cls in (OURS, STOCK)))
