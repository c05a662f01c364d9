"""What we set where a recipe is silent, what a trainer prints, and what it is refused."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trl
from datasets.utils import are_progress_bars_disabled
from trl_rows import preference_dataset

from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer, lora_config
from rlhf_plugins.errors import RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.testing import tiny_pairs
from rlhf_plugins.trainers.arguments import arguments, building, moving, record_curves
from rlhf_plugins.trainers.preference.trainer import PreferenceTrainer

from .conftest import OPTIONS

Bases = Callable[..., Base]


def trainer(base: Base, folder: Path, adapter: Adapter | None = None, **options: Any) -> PreferenceTrainer:
    args = arguments(trl.DPOConfig, folder, 0, {**OPTIONS, **options})
    config = lora_config(adapter or Adapter(r=4), "CAUSAL_LM")
    rows, loss = preference_dataset(tiny_pairs(8)), component("preference_loss", "dpo")
    given = {"train_dataset": rows, "processing_class": load_tokenizer(base), "peft_config": config}
    return PreferenceTrainer(load_causal(base), None, args, **given, loss=loss)


def test_a_recipes_word_is_the_last() -> None:
    args = arguments(trl.DPOConfig, Path("here"), 7, {"logging_steps": 3, "gradient_checkpointing": True, "seed": 1})
    assert (args.logging_steps, args.gradient_checkpointing, args.seed, args.output_dir) == (3, True, 7, "here")
    assert arguments(trl.DPOConfig, Path("here"), 7, {}).gradient_checkpointing is torch.cuda.is_available()


def test_what_spares_memory_reaches_trls_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    spares = {"optim": "paged_adamw_8bit", "activation_offloading": True}
    assert spares.keys() <= {field.name for field in fields(trl.DPOConfig)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # without one, offloading is refused
    monkeypatch.setattr("rlhf_plugins.engine.precision.computes_in_bf16", lambda: True)
    made = arguments(lambda **given: SimpleNamespace(n_gpu=1, **given), Path("here"), 0, spares)  # type: ignore[arg-type]
    assert {name: getattr(made, name) for name in spares} == spares


def test_batches_go_to_a_gpu_while_it_computes_where_they_are_pinned() -> None:
    assert moving({}, cuda=True) == {"accelerator_config": {"non_blocking": True}}
    assert moving({"dataloader_pin_memory": False}, cuda=True) == moving({}, cuda=False) == {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf_plugins.trainers.arguments.moving", lambda trainer, _: moving(trainer, cuda=True))
        made = arguments(trl.DPOConfig, Path("out"), 0, OPTIONS)
        own = arguments(trl.DPOConfig, Path("out"), 0, {**OPTIONS, "accelerator_config": {"split_batches": True}})
    assert made.accelerator_config.non_blocking
    assert own.accelerator_config.split_batches
    assert not own.accelerator_config.non_blocking


def test_no_deprecation_that_nobody_can_act_on() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arguments(trl.DPOConfig, Path("here"), 0, {})


@pytest.mark.parametrize("options", [{"no_such_option": 1}, {"num_generations": 1}])
def test_refused_options_are_one_error(options: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="trainer: GRPOConfig refuses these options: "):
        arguments(trl.GRPOConfig, Path("here"), 0, options)


@pytest.mark.parametrize(
    ("rows", "terminal", "disabled"), [(10_000, True, True), (10_001, True, False), (10_001, False, True)]
)
def test_bars_are_for_large_data_in_a_terminal(
    rows: int, terminal: bool, disabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with building(rows):
        assert are_progress_bars_disabled() is disabled
    assert not are_progress_bars_disabled()


def test_a_trainer_that_cannot_be_built_is_one_error(bases: Bases, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be built: .*no_such_module"), building(8):
        trainer(bases(), tmp_path, Adapter(target_modules=["no_such_module"]))
    assert not are_progress_bars_disabled()


@pytest.mark.parametrize("error", [ValueError, NotImplementedError, ImportError, OSError])
def test_what_a_library_refuses_is_its_first_line(error: type[Exception]) -> None:
    with pytest.raises(RunError, match="^the trainer cannot be built: no such file$"), building(8):
        raise error("no such file\nand advice")


def test_no_prompt_with_room_for_a_response_is_named(bases: Bases, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"every prompt fills max_length \(1\): write a larger one"):
        trainer(bases(), tmp_path, max_length=1, precompute_ref_log_probs=True)


def test_no_row_left_is_refused(bases: Bases, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there are 0 rows, too few for one batch"):
        trainer(bases(), tmp_path, max_length=1)


@pytest.mark.parametrize(("options", "logged"), [({}, [1, 2, 3]), ({"logging_steps": 2}, [2, 3])])
def test_curves_hold_every_logged_step_and_the_last(
    bases: Bases, tmp_path: Path, options: dict[str, int], logged: list[int]
) -> None:
    found = trainer(bases(), tmp_path, max_steps=3, **options)
    curves = record_curves(found, lambda _, __: None)
    found.train()
    assert [step for step, _ in curves.values["loss"]] == logged
    assert {"rewards/accuracies", "rewards/chosen", "rewards/rejected", "learning_rate"} <= curves.values.keys()
    assert "epoch" not in curves.values


def test_a_run_prints_its_bar_and_nothing_else(
    bases: Bases, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = trainer(bases(), tmp_path, max_steps=2, disable_tqdm=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    record_curves(found, lambda _, __: None)
    capsys.readouterr()
    found.train()
    printed = capsys.readouterr()
    assert printed.out.strip() == ""
    assert "2/2" in printed.err
    assert "loss 0.69" in printed.err


def test_an_adapter_of_a_base_is_a_copy_of_its_options() -> None:
    found = lora_config(replace(Adapter(), r=3, target_modules=["q_proj"]), "CAUSAL_LM")
    assert (found.r, found.target_modules, found.lora_alpha) == (3, {"q_proj"}, 32)
