"""A script for trl.GRPOTrainer runs with our trainer after one changed import, and trains and logs the same."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import trl
from datasets import Dataset
from marks import slow
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback, set_seed

import rlhf_plugins
from rlhf_plugins import RunError
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.data.batches.groups import prompt_dataset
from rlhf_plugins.engine.weights.loading import load_tokenizer, lora_config, with_adapter
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_pairs, tiny_run

from .conftest import furthest, trained

Bases = Callable[..., Base]
OURS, STOCK = rlhf_plugins.OnlineTrainer, trl.GRPOTrainer
PLAIN = {"bf16": False, "use_cpu": True, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True}
SHORT = {"max_steps": 4, "logging_steps": 1, "learning_rate": 1e-2, "max_completion_length": 6}
SIZES = {"per_device_train_batch_size": 6, "num_generations": 3}
TIMES = ("runtime", "_per_second", "total_flos", "step_time")  # ends of names of times and work


def ants(completions: list[Any], **_: Any) -> list[float]:
    texts = [each if isinstance(each, str) else each[0]["content"] for each in completions]
    return [float(text.split().count("ant")) + 0.1 * len(text) for text in texts]


def rows(count: int = 12) -> Dataset:
    return Dataset.from_list([{"prompt": f"how{' ant' * (i % 4)}", "bonus": float(i)} for i in range(count)])


def injected(self: Any, prompt_ids: list[Any], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
    """Completions of 1 to 6 tokens that differ from step to step, and end with EOS or not."""
    at = self.state.global_step
    return [[1 + (7 * i + 5 * t + at) % 16 for t in range(1 + (i + at) % 6)] for i in range(len(prompt_ids))], None


@pytest.fixture(autouse=True)
def generation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl.GRPOTrainer, "_generate_single_turn", injected)


def script(cls: Any, base: Base, folder: Path, options: dict[str, Any] | None = None, **given: Any) -> Any:
    """What a script does: a model by its name, unless it has loaded one, and rows as TRL has them."""
    args = trl.GRPOConfig(str(folder), **{**PLAIN, **SHORT, **SIZES, **(options or {})})
    whole = {"model": base.path, "reward_funcs": ants, "train_dataset": rows(), **given}
    return cls(args=args, **whole)


def lines(trainer: Any) -> list[dict[str, float]]:
    """Everything that was logged so far, but for times."""
    return [{k: v for k, v in line.items() if not k.endswith(TIMES)} for line in trainer.state.log_history]


def assert_alike(*given: Any, engine: bool = True, apart: tuple[str, ...] = (), **named: Any) -> None:
    """Both train, log the same under TRL's names but for those that are `apart`, and end with the same weights."""
    ours, theirs = (script(cls, *given, **named) for cls in (OURS, STOCK))
    assert (ours.obstacle is None) is engine
    for each in (ours, theirs):
        set_seed(0)
        each.train()
    if not engine:
        assert repr(lines(ours)) == repr(lines(theirs))
        return
    for found, expected in zip(lines(ours), lines(theirs), strict=True):
        alike = {name: value for name, value in expected.items() if name not in apart}
        assert {name: found[name] for name in alike} == pytest.approx(alike, rel=1e-3, abs=1e-5)
    assert furthest(trained(ours), trained(theirs)) < 1e-3


def test_the_constructor_is_trls_with_keywords_more() -> None:
    found, theirs = (list(inspect.signature(cls).parameters) for cls in (OURS, STOCK))
    assert found[: len(theirs)] == theirs
    assert found[len(theirs) :][:5] == ["reward", "advantage", "policy_loss", "reduction", "kl"]


@pytest.mark.parametrize("adapter", [None, Adapter(r=4)], ids=["full", "lora"])
def test_a_script_trains_and_logs_as_with_trl(bases: Bases, tmp_path: Path, adapter: Adapter | None) -> None:
    given = {"peft_config": lora_config(adapter, "CAUSAL_LM") if adapter else None}
    assert_alike(bases(), tmp_path, {}, **given)


@pytest.mark.parametrize("own", [{"modules_to_save": ["lm_head"]}, *slow({"lora_bias": True}, {"use_dora": True})])
def test_the_reference_is_without_all_that_an_adapter_trains(bases: Bases, tmp_path: Path, own: dict[str, Any]) -> None:
    given = LoraConfig(r=4, task_type="CAUSAL_LM", target_modules="all-linear", **own)
    assert_alike(bases(), tmp_path, {"beta": 0.3}, peft_config=given)


OF_RESPONSES = {
    **{"importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    **{"num_iterations": 2, "learning_rate": 0.05},
}
OF_THE_LOSS: list[dict[str, Any]] = [
    {"loss_type": "dr_grpo", "scale_rewards": "none"},
    {"beta": 0.3, "use_bias_correction_kl": False, "loss_type": "grpo"},
    {"scale_rewards": "batch"},
    {"delta": 1.5, "num_iterations": 2, "learning_rate": 0.1},
    {"gradient_accumulation_steps": 2, "steps_per_generation": 4, "per_device_train_batch_size": 3},
    {**OF_RESPONSES, "loss_type": "grpo"},
    {"loss_type": "sapo", "num_iterations": 2, "learning_rate": 0.05},
    *slow(
        {**OF_RESPONSES, "beta": 0.3},
        {**OF_RESPONSES, "loss_type": "dr_grpo", "beta": 0.3, "use_bias_correction_kl": False},
        {"loss_type": "grpo"},
        {"loss_type": "bnpo"},
        {"beta": 0.3},
        {"epsilon_high": 0.4, "num_iterations": 3, "learning_rate": 0.1},
        {"entropy_coef": 0.1},
        {"beta": 0.3, "sync_ref_model": True, "ref_model_sync_steps": 1},
        {"steps_per_generation": 3, "per_device_train_batch_size": 2},
        {"steps_per_generation": 2, "num_iterations": 2, "beta": 0.1, "epsilon": 0.01},
        {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 2, "loss_type": "grpo"},
    ),
]


@pytest.mark.parametrize("options", OF_THE_LOSS, ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items()))
def test_so_it_does_for_other_losses_and_sizes(bases: Bases, tmp_path: Path, options: dict[str, Any]) -> None:
    assert_alike(bases(), tmp_path, options)


@pytest.mark.parametrize("own", [{"epsilon_high": 1.1}, *slow({"epsilon_high": 5.0, "beta": 0.3}, {"epsilon": 0.9})])
def test_cispo_learns_as_with_trl_from_a_loss_of_another_height(
    bases: Bases, tmp_path: Path, own: dict[str, Any]
) -> None:
    options = {"loss_type": "cispo", "num_iterations": 2, "learning_rate": 0.05, **own}
    assert_alike(bases(), tmp_path, options, apart=("loss", "train_loss"))


def terse(prompts: list[Any], completions: list[Any], bonus: list[float], **_: Any) -> list[float | None]:
    """Reads a further column, and gives no number to some."""
    return [None if b % 5 == 4 else b - len(c) for b, c in zip(bonus, completions, strict=True)]


def test_several_reward_functions_with_weights(bases: Bases, tmp_path: Path) -> None:
    given = {"reward_funcs": [ants, terse]}
    assert_alike(bases(), tmp_path, {"reward_weights": [1.0, 0.25]}, **given)


def messages(base: Base) -> tuple[Any, Dataset]:
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}is"
    return tokenizer, rows().map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})


def test_prompts_are_text_or_messages(bases: Bases, tmp_path: Path) -> None:
    tokenizer, chats = messages(bases())
    assert_alike(bases(), tmp_path, {}, train_dataset=chats, processing_class=tokenizer)


def test_an_object_a_callback_and_an_optimizer(bases: Bases, tmp_path: Path) -> None:
    """The model of a script that loaded it, which leaves both trainings the same seed."""
    ended = []

    class Ending(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == 2
            ended.append(state.global_step)

    for cls in (OURS, STOCK):
        model = AutoModelForCausalLM.from_pretrained(bases().path)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1), None
        found = script(cls, bases(), tmp_path, {}, model=model, callbacks=[Ending()], optimizers=sgd)
        found.train()
    assert ended == [1, 2, 1, 2]


@pytest.mark.parametrize("options", [*slow({}), {"beta": 0.2}], ids=["plain", "kl"])
def test_evaluation_is_trls(bases: Bases, tmp_path: Path, options: dict[str, Any]) -> None:
    found = {}
    for cls in (OURS, STOCK):
        every = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 6, **options}
        trainer = script(cls, bases(), tmp_path, every, eval_dataset={"few": rows(4), "all": rows()})
        trainer.train()
        found[cls] = [line for line in lines(trainer) if any("eval" in name for name in line)]
    assert len(found[OURS]) == 4
    for one, other in zip(found[OURS], found[STOCK], strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_an_adapter_that_was_there_is_its_own_reference(bases: Bases, tmp_path: Path) -> None:
    """Two trainings with equal adapters that are not 0: TRL copies them as the reference."""
    ran = []
    for cls in (OURS, STOCK):
        set_seed(1)
        model = with_adapter(AutoModelForCausalLM.from_pretrained(bases().path), Adapter(r=4), "CAUSAL_LM")
        for name, weights in model.named_parameters():
            weights.data += 0.1 * ("lora_B" in name)
        ran.append(script(cls, bases(), tmp_path, {"beta": 0.2}, model=model))
        ran[-1].train()
    for found, expected in zip(*map(lines, ran), strict=True):
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert lines(ran[0])[0]["kl"] == pytest.approx(0, abs=1e-5)


def telling(completions: list[Any], log_extra: Any, log_metric: Any, **_: Any) -> list[float]:
    log_extra("first", [text[:3] for text in completions])
    log_metric("longest", float(max(map(len, completions))))
    return ants(completions)


def test_completions_are_logged_as_trl_logs_them(bases: Bases, tmp_path: Path) -> None:
    options = {"log_completions": True, "max_steps": 2}
    assert_alike(bases(), tmp_path / "both", options, reward_funcs=telling)
    tables = []
    for cls in (OURS, STOCK):
        script(cls, bases(), tmp_path / cls.__name__, options, reward_funcs=telling).train()
        tables.append(pd.read_parquet(tmp_path / cls.__name__ / "completions" / "completions_00001.parquet"))
    pd.testing.assert_frame_equal(*tables, rtol=1e-4)
    assert {"first", "telling", "advantage"} <= set(tables[0])


def test_a_recipes_stage_trains_as_the_script(bases: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "def score(completions, **_):\n    return [text.count('ant') + 0.1 * len(text) for text in completions]\n"
    )
    options = {**SHORT, **SIZES, "disable_tqdm": True}
    words = {"advantage": "grpo", "kl": {"use": "in_loss", "coef": 0.2}, "shaping": [], "monitors": []}
    reward = {"use": "python", "path": f"{file}:score"}
    stage = component("stage", {"use": "online", "reward": reward, **words, "trainer": options})
    run = tiny_run(replace(bases(), adapter=Adapter(r=4)), tmp_path / "run", tiny_pairs(12))
    set_seed(0)
    curves = stage.run(run).curves
    same = {"beta": 0.2, "use_bias_correction_kl": False, "seed": 0}
    given = {"peft_config": lora_config(Adapter(r=4), "CAUSAL_LM"), "train_dataset": prompt_dataset(tiny_pairs(12))}
    found = script(OURS, bases(), tmp_path, same, **given)
    found.train()
    for name in ("loss", "reward", "grad_norm", "approx_kl"):
        assert [value for _, value in curves[name].points] == pytest.approx(
            [line[name] for line in lines(found) if name in line], rel=1e-3, abs=1e-5
        )


async def short(completions: list[Any], **_: Any) -> list[float]:
    return [-float(len(text)) for text in completions]


def test_a_reward_model_by_its_name_and_an_asynchronous_function(bases: Bases, tmp_path: Path) -> None:
    judge = str(tmp_path / "judge")
    AutoModelForSequenceClassification.from_pretrained(bases().path, num_labels=1).save_pretrained(judge)
    load_tokenizer(bases()).save_pretrained(judge)
    ran = [script(cls, bases(), tmp_path, {"max_steps": 2}, reward_funcs=[judge, short]) for cls in (OURS, STOCK)]
    for each in ran:
        set_seed(0)
        each.train()
    for found, expected in zip(*map(lines, ran), strict=True):
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-5)


def unknown(completions: list[Any], **_: Any) -> list[float]:
    return [float("nan")] * len(completions)


def partly(completions: list[Any], **_: Any) -> list[float | None]:
    return [None if place == 0 else float(len(text)) for place, text in enumerate(completions)]


def endless(completions: list[Any], **_: Any) -> list[float]:
    return [1.0, float("inf"), *[0.0] * (len(completions) - 2)]


def test_a_reward_that_gives_no_number_is_said_once(
    bases: Bases, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        script(OURS, bases(), tmp_path, reward_funcs=partly).train()
    said = "1 of 6 responses of a rollout are left out, since partly gave no number"
    assert sum(said in record.getMessage() for record in caplog.records) == 1


def test_a_training_without_any_reward_ends(bases: Bases, tmp_path: Path) -> None:
    found = script(OURS, bases(), tmp_path, {"max_steps": 20}, reward_funcs=unknown)
    with pytest.raises(RunError, match=r"unknown gave no number \(None or NaN\) for any response of 11 rollouts"):
        found.train()
    assert found.state.global_step == 10
    script(OURS, bases(), tmp_path, {"max_steps": 12}, reward_funcs=[unknown, ants]).train()


def test_an_infinite_reward_is_named(bases: Bases, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="reward_funcs: endless gave inf for the response '.*': a reward is a finite"):
        script(OURS, bases(), tmp_path, reward_funcs=[ants, endless]).train()
