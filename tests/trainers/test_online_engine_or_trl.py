"""Who computes which argument of an online trainer is decided once and said; docs/trainer_options.md has them all."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trl
from transformers import TrainingArguments, set_seed

from rlhf_plugins import PluginError, RunError, component
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.engine.weights.loading import load_causal, lora_config
from rlhf_plugins.trainers.ppo.config import OnlineConfig
from rlhf_plugins.trainers.ppo.options import Value

from .test_online_script import OURS, STOCK, assert_alike, injected, lines, rows, script
from .test_preference_engine_or_trl import LAUNCHED
from .test_tables import ways

Bases = Callable[..., Base]
WAYS = ways("OnlineTrainer")
TRLS_ALONE: dict[str, dict[str, Any]] = {  # of GRPOConfig's own fields: what makes each go TRL's way
    "cast_lm_head_to_fp32": {"cast_lm_head_to_fp32": True},
    "mask_truncated_completions": {"mask_truncated_completions": True},
    "multi_objective_aggregation": {"multi_objective_aggregation": "normalize_then_sum"},
    "off_policy_mask_threshold": {"off_policy_mask_threshold": 0.1},
    "top_entropy_quantile": {"top_entropy_quantile": 0.5},
    "use_adaptive_entropy": {"use_adaptive_entropy": True, "entropy_target": 1.0},
    **{name: {"use_adaptive_entropy": True, "entropy_target": 1.0, name: value}
       for name, value in {"entropy_coef_delta": 0.01, "entropy_coef_max": 0.5, "entropy_coef_min": 0.1}.items()},
    "entropy_target": {"use_adaptive_entropy": True, "entropy_target": 2.0},
    **{f"vespo_{name}": {"loss_type": "vespo", f"vespo_{name}": 1.5}
       for name in ("k_neg", "k_pos", "lambda_neg", "lambda_pos")},
}  # fmt: skip
NOT_HERE = {  # they need vLLM, a mixture of experts, or a paged cache, which the test of this name cannot start
    "router_aux_loss_coef",
    "transformers_continuous_batching_config",
    "use_transformers_continuous_batching",
    "use_transformers_paged",
}


@pytest.fixture(autouse=True)
def generation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl.GRPOTrainer, "_generate_single_turn", injected)


def test_the_page_has_each_argument_and_each_field_once() -> None:
    fields = {field.name for field in dataclasses.fields(trl.GRPOConfig)}
    assert WAYS.keys() == fields | set(inspect.signature(STOCK).parameters)


def test_the_page_names_what_goes_trls_way() -> None:
    own = {f.name for f in dataclasses.fields(trl.GRPOConfig)} - {f.name for f in dataclasses.fields(TrainingArguments)}
    theirs = {name for name, way in WAYS.items() if way == "TRL's way"}
    assert theirs & own == TRLS_ALONE.keys() | NOT_HERE
    assert theirs >= LAUNCHED.keys() | {"tools", "rollout_func", "environment_factory", "deepspeed", "fsdp"}


@pytest.mark.parametrize("options", TRLS_ALONE.values(), ids=TRLS_ALONE)
def test_what_trl_alone_computes_goes_trls_way(bases: Bases, tmp_path: Path, options: dict[str, Any]) -> None:
    assert script(OURS, bases(), tmp_path, options).obstacle


TRAINED = ("top_entropy_quantile", "use_adaptive_entropy", "vespo_k_neg")  # in `make test`


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=[] if name in TRAINED else pytest.mark.slow)
        for name, options in TRLS_ALONE.items()
    ],
)
def test_what_trl_alone_computes_is_trls_training(bases: Bases, tmp_path: Path, options: dict[str, Any]) -> None:
    assert_alike(bases(), tmp_path, {"max_steps": 2, **options}, engine=False)


def test_a_loss_that_a_component_names_is_on_the_engine(bases: Bases, tmp_path: Path) -> None:
    assert script(OURS, bases(), tmp_path, {"epsilon": 1.5}).obstacle == "epsilon=1.5"
    both = {"importance_sampling_level": "sequence", "delta": 1.5}
    assert script(OURS, bases(), tmp_path, both).obstacle == "delta=1.5 with importance_sampling_level='sequence'"
    given = {"policy_loss": component("policy_loss", "policy_gradient")}
    assert script(OURS, bases(), tmp_path, **given).obstacle is None


def rolled(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    ids = injected(trainer, prompts)[0]
    return {"prompt_ids": [[15]] * len(ids), "completion_ids": ids, "logprobs": [[0.0] * len(each) for each in ids]}


def test_a_rollout_of_the_scripts_goes_trls_way(bases: Bases, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "rlhf_plugins"):
        assert_alike(bases(), tmp_path, {"max_steps": 2}, rollout_func=rolled, engine=False)
    assert [each.getMessage() for each in caplog.records] == ["OnlineTrainer goes TRL's own way: rollout_func="]


def test_dropout_goes_trls_way_unless_it_is_disabled(bases: Bases, tmp_path: Path) -> None:
    given = {"peft_config": lora_config(Adapter(r=4, lora_dropout=0.1), "CAUSAL_LM")}
    found = script(OURS, bases(), tmp_path, {}, **given)
    assert found.obstacle.startswith("dropout: ")
    assert script(OURS, bases(), tmp_path, {"disable_dropout": True}, **given).obstacle is None


def by_length(samples: Samples) -> list[float]:
    return [float(len(text)) + bonus for text, bonus in zip(samples.responses, samples.columns["bonus"], strict=True)]


PPO: dict[str, Any] = {
    "reward_funcs": None,
    "reward": by_length,
    "advantage": component("advantage", "gae"),
    "kl": component("kl", "in_reward", coef=0.1),
    "shaping": [component("shaping", "missing_eos")],
    "value": Value(coef=0.2),
}


def test_components_make_it_ppo(bases: Bases, tmp_path: Path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 4, "per_device_eval_batch_size": 6}
    given = {**PPO, "reference": load_causal(bases()), "eval_dataset": rows(4)}
    found = script(OURS, bases(), tmp_path, options, **given)
    found.train()
    (line,) = [line for line in lines(found) if "eval_rewards/by_length/mean" in line]
    assert "eval_loss" not in line  # TRL's would be of another objective
    assert {"value_loss", "explained_variance", "kl", "shaped_reward", "reward"} <= lines(found)[0].keys()
    assert found.take_value_head().keys() >= {"weight", "bias"}


def test_rewards_by_a_component_train_as_those_by_functions(bases: Bases, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "def score(completions, **_):\n    return [0.1 * len(text) + text.count('ant') for text in completions]\n"
    )
    own = {"reward_funcs": None, "reward": component("reward", "python", path=f"{file}:score")}
    ran = [script(OURS, bases(), tmp_path, {}, **given) for given in ({}, own)]
    for each in ran:
        set_seed(0)
        each.train()
    one, other = ([line["loss"] for line in lines(each)[:-1]] for each in ran)
    assert one == pytest.approx(other)


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({"beta": 0.1}, {"kl": component("kl", "in_loss")}, r"^both kl= and args.beta=0.1 say the same"),
        ({"loss_type": "grpo"}, {"reduction": component("reduction", "tokens")}, "args.loss_type='grpo' say the same"),
        ({"epsilon": 0.1}, {"policy_loss": component("policy_loss", "clip")}, "args.epsilon=0.1 say the same"),
        (
            {"importance_sampling_level": "sequence"},
            {"policy_loss": component("policy_loss", "gspo")},
            "both policy_loss= and args.importance_sampling_level='sequence' say the same",
        ),
        ({"generation_kwargs": {"temperature": 0.5}}, {}, "a temperature of 0.5 would sample from another policy"),
        ({"scale_rewards": "none"}, {"advantage": component("advantage", "grpo")}, "args.scale_rewards='none' say"),
        ({}, {"reward": by_length}, "both reward= and reward_funcs give rewards"),
        ({}, {"kl": component("kl", "in_loss")}, "kl= needs reference=, the frozen model"),
        ({}, {"value": Value()}, "the advantage reads no values"),
        ({}, {"reward_funcs": None, "reward": component("reward", "gold")}, "reads `data` of a recipe's run"),
        ({}, {"reward_funcs": None, "reward": 3}, "reward= takes a component of the kind reward or a function, not a"),
        ({}, {"advantage": component("kl", "in_loss")}, "advantage= takes a component of the kind advantage, not a In"),
        (
            {},
            {"shaping": [component("kl", "in_loss")]},
            "takes a list of components of the kind shaping, not a I",
        ),
        ({}, {"shaping": component("shaping", "missing_eos")}, "shaping= takes a list of components .*, not a Missing"),
        ({}, {"shaping": [None]}, "shaping= takes a list of components of the kind shaping, not a NoneType"),
        ({}, {"value": {"coef": 1.0}}, r"value= takes Value\(...\), not a dict"),
        ({}, {"exploration": 0.1}, r"exploration= takes Exploration\(...\), not a float"),
        (
            {},
            {"environment": 3, "turns": 2},
            "environment= takes a component of the kind environment or a",
        ),
        (
            {},
            {"fallback": 3, "abstained": "fallback"},
            "fallback= takes a component of the kind reward or a",
        ),
        ({}, {"fallback": by_length}, "goes with abstained='fallback'"),
        (
            {"top_entropy_quantile": 0.5},
            {"advantage": component("advantage", "rloo")},
            r"^advantage= needs the engine, which does not compute top_entropy_quantile=0.5$",
        ),
    ],
)
def test_what_contradicts_is_refused(
    bases: Bases, tmp_path: Path, options: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        script(OURS, bases(), tmp_path, options, **given)


def test_a_wrong_word_names_the_nearest(bases: Bases, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"no argument is called 'advantages' \(did you mean advantage"):
        script(OURS, bases(), tmp_path, {}, advantages="a")
    with pytest.raises(PluginError, match=r"kl is a component, not a name: write component\(kind, 'in_loss'\) for kl"):
        script(OURS, bases(), tmp_path, {}, kl="in_loss")
    with pytest.raises(PluginError, match=r"write component\(kind, 'missing_eos'\) for shaping"):
        script(OURS, bases(), tmp_path, {}, shaping=["missing_eos"])


def test_a_training_goes_on_from_a_checkpoint_as_with_trl(bases: Bases, tmp_path: Path) -> None:
    found = {}
    for cls in (OURS, STOCK):
        options = {"save_steps": 2, "save_strategy": "steps"}
        set_seed(0)
        script(cls, bases(), tmp_path / cls.__name__, {**options, "max_steps": 2}).train()
        again = script(cls, bases(), tmp_path / cls.__name__, options)
        again.train(resume_from_checkpoint=True)
        found[cls] = lines(again)
    for one, other in zip(found[OURS], found[STOCK], strict=True):
        assert {name: one[name] for name in other} == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_components_do_not_go_on_from_a_checkpoint(bases: Bases, tmp_path: Path) -> None:
    found = script(OURS, bases(), tmp_path, {}, **{**PPO, "reference": load_causal(bases())})
    with pytest.raises(RunError, match="cannot go on from a checkpoint"):
        found.train(resume_from_checkpoint=True)


def test_a_script_that_asks_for_noise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neftune_noise_alpha: 5.0, but in online training ratios must start at 1"):
        OnlineConfig(str(tmp_path), bf16=False, neftune_noise_alpha=5.0)
