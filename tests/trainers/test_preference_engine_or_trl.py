"""Who computes which argument is decided once and said; docs/trainer_options.md has them all, and is right."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trl
from marks import slow
from peft import LoraConfig, PeftConfig, PromptTuningConfig
from transformers import TrainingArguments

from rlhf_plugins.contract.run import Base
from rlhf_plugins.errors import PluginError, RunError
from rlhf_plugins.recipe.assemble import component
from rlhf_plugins.trainers.arguments import unusual_launch
from rlhf_plugins.trainers.preference.engine_or_trl import PreferenceOptions, check

from .test_preference_script import OURS, STOCK, assert_equal, config, logged, rows, script
from .test_tables import ways

Bases = Callable[..., Base]
WAYS = ways("PreferenceTrainer")  # of each argument and field, by docs/trainer_options.md

TRLS_ALONE: dict[str, dict[str, Any]] = {  # of DPOConfig's own fields: what makes each go TRL's way
    "ld_alpha": {"ld_alpha": 0.5},
    "use_weighting": {"use_weighting": True},
    "f_divergence_type": {"f_divergence_type": "js_divergence"},
    "f_alpha_divergence_coef": {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
    "label_smoothing": {"loss_type": ["robust"], "label_smoothing": 0.1},
    "discopop_tau": {"loss_type": ["discopop"], "discopop_tau": 0.1},
}
FAST = ("f_divergence_type", "label_smoothing")
LAUNCHED = {  # options of transformers that the engine does not compute
    "torch_compile": True,
    "neftune_noise_alpha": 5.0,
    "use_liger_kernel": True,
    "include_num_input_tokens_seen": "all",
    "include_for_metrics": ["inputs"],
    "fp16_full_eval": True,
    "bf16_full_eval": True,
    "debug": ["underflow_overflow"],
}


def test_the_page_has_each_argument_and_each_field_once() -> None:
    fields = {field.name for field in dataclasses.fields(trl.DPOConfig)}
    assert WAYS.keys() == fields | set(inspect.signature(STOCK).parameters)


def test_the_page_names_what_goes_trls_way() -> None:
    own = {f.name for f in dataclasses.fields(trl.DPOConfig)} - {f.name for f in dataclasses.fields(TrainingArguments)}
    theirs = {name for name, way in WAYS.items() if way == "TRL's way"}
    assert theirs & own == TRLS_ALONE.keys() | {"router_aux_loss_coef"}
    assert theirs >= LAUNCHED.keys() | {"data_collator", "deepspeed", "fsdp", "parallelism_config"}


@pytest.mark.parametrize(
    "options", [one if name in FAST else slow(one)[0] for name, one in TRLS_ALONE.items()], ids=TRLS_ALONE
)
def test_what_trl_alone_computes_is_trls_training(bases: Bases, tmp_path: Path, options: dict[str, Any]) -> None:
    ours = script(OURS, bases(), tmp_path, {**options, "max_steps": 2})
    assert ours.obstacle is not None
    assert logged(ours) == logged(script(STOCK, bases(), tmp_path, {**options, "max_steps": 2}))


def launched(**options: Any) -> SimpleNamespace:
    """A trainer as far as `unusual_launch` reads it."""
    accelerator = SimpleNamespace(num_processes=options.pop("processes", 1), parallelism_config=None)
    deepspeed = options.pop("deepspeed", False)
    args = SimpleNamespace(**{**vars(config(Path("here"))), **options})
    return SimpleNamespace(accelerator=accelerator, args=args, is_deepspeed_enabled=deepspeed, is_fsdp_enabled=False)


@pytest.mark.parametrize(("name", "value"), LAUNCHED.items())
def test_an_option_that_reaches_the_forward_pass_goes_trls_way(name: str, value: Any) -> None:
    assert list(unusual_launch(launched())) == []
    assert list(unusual_launch(launched(**{name: value}))) == [f"{name}={value!r}"]


@pytest.mark.parametrize(
    ("options", "said"), [({"processes": 2}, "several processes"), ({"deepspeed": True}, "DeepSpeed or FSDP")]
)
def test_a_launch_that_shares_the_work_goes_trls_way(options: dict[str, Any], said: str) -> None:
    assert list(unusual_launch(launched(**options))) == [said]


@pytest.mark.slow
def test_a_collator_of_the_scripts_is_used(bases: Bases, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    collator = trl.trainer.dpo_trainer.DataCollatorForPreference(pad_token_id=0, max_length=7)
    with caplog.at_level(logging.WARNING, "rlhf_plugins"):
        found, expected = (script(cls, bases(), tmp_path, {}, data_collator=collator) for cls in (OURS, STOCK))
    assert [each.getMessage() for each in caplog.records] == ["PreferenceTrainer goes TRL's own way: data_collator="]
    assert logged(found) == logged(expected)


OF_TOKENS = [
    (LoraConfig(task_type="CAUSAL_LM", alora_invocation_tokens=[15]), "begins at alora_invocation_tokens"),
    *slow((PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), "learns a prompt")),
]


@pytest.mark.parametrize(("adapter", "what"), OF_TOKENS)
def test_an_adapter_that_reads_or_writes_tokens_is_trls(
    bases: Bases, tmp_path: Path, adapter: PeftConfig, what: str
) -> None:
    found, expected = (script(cls, bases(), tmp_path, {}, peft_config=adapter) for cls in (OURS, STOCK))
    assert found.obstacle == f"an adapter that {what}"
    assert logged(found) == logged(expected)


@pytest.mark.parametrize(("coef", "engine"), [(None, False), (0.0, True)])
def test_a_mixture_of_experts_without_its_loss_is_on_the_engine(
    bases: Bases, tmp_path: Path, coef: float | None, engine: bool
) -> None:
    base = bases("mixtral", num_local_experts=4, num_experts_per_tok=2, sliding_window=None)
    found, expected = (script(cls, base, tmp_path, {"router_aux_loss_coef": coef}) for cls in (OURS, STOCK))
    assert (found.obstacle is None) is engine
    assert_equal(logged(found), logged(expected))


def test_a_component_trains_and_logs_in_units_of_its_own_beta(bases: Bases, tmp_path: Path) -> None:
    loss = component("preference_loss", {"use": "dpo", "beta": 0.3})
    found = logged(script(OURS, bases(), tmp_path, {}, loss=loss))
    assert_equal(found, logged(script(STOCK, bases(), tmp_path, {"beta": 0.3})))


def test_lists_of_losses_with_weights_are_trls(bases: Bases, tmp_path: Path) -> None:
    options = {"loss_type": ["sigmoid", "ipo"], "loss_weights": [0.8, 0.2]}
    found, expected = (script(cls, bases(), tmp_path, options) for cls in (OURS, STOCK))
    assert found.obstacle is None
    assert_equal(logged(found), logged(expected))


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({"ld_alpha": 0.5}, {"loss": "dpo"}, r"^loss= needs the engine, which does not compute ld_alpha=0.5$"),
        ({"label_smoothing": 0.1}, {"loss": "dpo"}, r"^loss= does not read args.label_smoothing=0.1: leave it out"),
        ({"discopop_tau": 0.1}, {"loss": "dpo"}, r"^loss= does not read args.discopop_tau=0.1"),
        ({"f_alpha_divergence_coef": 0.3}, {"loss": "dpo"}, r"does not read args.f_alpha_divergence_coef=0.3"),
        ({"loss_type": ["ipo"]}, {"loss": "dpo"}, r"both loss= and args.loss_type=\['ipo'\] name a loss"),
        ({}, {"reference_cache": "a.sqlite"}, "set that to True"),
        (
            {"loss_type": ["hinge"], "precompute_ref_log_probs": True},
            {"reference_cache": "a.sqlite"},
            r"^reference_cache= needs the engine, which does not compute loss_type=\['hinge'\] \(it has sigmoid, ipo",
        ),
    ],
)
def test_what_contradicts_is_refused(
    bases: Bases, tmp_path: Path, options: dict[str, Any], given: dict[str, str], message: str
) -> None:
    own: dict[str, Any] = {
        k: component("preference_loss", v) if k == "loss" else tmp_path / v for k, v in given.items()
    }
    with pytest.raises(RunError, match=message):
        script(OURS, bases(), tmp_path, options, **own)


@pytest.mark.parametrize(
    ("options", "unread"),
    [
        ({}, []),
        ({"label_smoothing": 0.1}, ["label_smoothing=0.1"]),
        ({"label_smoothing": 0.1, "loss_type": ["sigmoid", "robust"]}, []),
        ({"label_smoothing": 0.1, "loss_type": ["exo_pair"]}, []),
        ({"label_smoothing": 0.1, "loss_type": ["aot"]}, []),
        ({"label_smoothing": 0.1, "loss_type": ["aot_unpaired"]}, []),
        ({"discopop_tau": 0.1, "loss_type": ["hinge"]}, ["discopop_tau=0.1"]),
        ({"discopop_tau": 0.1, "loss_type": ["discopop"]}, []),
        ({"f_alpha_divergence_coef": 0.3, "f_divergence_type": "forward_kl"}, ["f_alpha_divergence_coef=0.3"]),
        ({"f_alpha_divergence_coef": 0.3, "f_divergence_type": "alpha_divergence"}, []),
    ],
)
def test_what_the_loss_type_does_not_read_is_said(
    tmp_path: Path, options: dict[str, Any], unread: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "rlhf_plugins"):
        check(PreferenceOptions(), {"args": config(tmp_path, **options)})
    said = [f"args.{one} changes nothing: loss_type=" for one in unread]
    assert [each.getMessage().partition("[")[0] for each in caplog.records] == said


def test_a_wrong_word_names_the_nearest(bases: Bases, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"no argument is called 'referense_cache' \(did you mean reference_cache"):
        script(OURS, bases(), tmp_path, {}, referense_cache="a")
    with pytest.raises(PluginError, match=r"loss is a component, not a name: write component\(kind, 'dpo'\) for loss"):
        script(OURS, bases(), tmp_path, {}, loss="dpo")


@pytest.mark.slow
def test_soft_labels_are_read_where_a_loss_is_given(bases: Bases, tmp_path: Path) -> None:
    soft = rows().add_column("probability", [0.5] * 16)
    theirs = logged(script(OURS, bases(), tmp_path, {}, train=soft))
    assert_equal(theirs, logged(script(STOCK, bases(), tmp_path, {}, train=soft)))
    ours = logged(script(OURS, bases(), tmp_path, {}, train=soft, loss=component("preference_loss", "dpo")))
    assert ours[0]["grad_norm"] < 1e-4 < theirs[0]["grad_norm"]  # both labels pull alike, so nothing is learned


def test_margins_are_read_row_by_row(bases: Bases, tmp_path: Path) -> None:
    margins = rows().add_column("margin", [2.0, None] * 8)
    loss = component("preference_loss", {"use": "dpo_margin", "alpha": 0.5})
    whole = {"max_steps": 1, "per_device_train_batch_size": 16}
    found = logged(script(OURS, bases(), tmp_path, whole, train=margins, loss=loss))
    assert found[0]["loss"] == pytest.approx(1.0032044, abs=1e-5)  # h = 0: (log(1 + e) + log 2) / 2


def test_a_loss_that_needs_margins_is_not_given_rows_without(bases: Bases, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="preference_loss dpo_margin needs the column .margin. of each row, which has"):
        script(OURS, bases(), tmp_path, {}, loss=component("preference_loss", "dpo_margin"))
