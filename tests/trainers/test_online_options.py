"""Every option that TRL adds to TrainingArguments is read while a policy trains on its own samples, or refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import transformers
import trl
from trl.trainer.callbacks import SyncRefModelCallback

from rlhf_plugins.stages.online import UNREAD
from rlhf_plugins.trainers.online.engine_or_trl import OnlineOptions, objective_of
from rlhf_plugins.trainers.online.rewards import RewardFunctions
from rlhf_plugins.trainers.online.trainer import OnlineTrainer
from rlhf_plugins.trainers.ppo.importance import Correction
from rlhf_plugins.trainers.ppo.options import Objective
from rlhf_plugins.trainers.ppo.rollout import Rollouts

from .test_tables import ways

GRPO, MADE = trl.GRPOTrainer, trl.GRPOTrainer.__init__
SAMPLED = GRPO._generate_single_turn
READ: dict[str, tuple[Callable[..., Any], str]] = {  # by what, in which words
    "cache_implementation": (MADE, "args.cache_implementation"),
    "chat_template_kwargs": (OnlineTrainer.__init__, "self.chat_template_kwargs"),
    "disable_dropout": (MADE, "disable_dropout_in_model(model)"),
    "ds3_gather_for_generation": (SAMPLED, "self.args.ds3_gather_for_generation"),
    "generation_batch_size": (GRPO._get_train_sampler, "self.args.generation_batch_size"),
    "generation_kwargs": (MADE, "generation_kwargs.update(args.generation_kwargs)"),
    "max_completion_length": (Rollouts.greedy, "trainer.max_completion_length"),
    "min_p": (MADE, '"min_p": self.min_p'),
    "num_generations": (GRPO._get_train_sampler, "self.num_generations"),
    "num_iterations": (OnlineTrainer._place, "self.num_iterations"),
    "pad_to_multiple_of": (SAMPLED, "self.pad_to_multiple_of"),
    "repetition_penalty": (MADE, '"repetition_penalty": self.repetition_penalty'),
    "shuffle_dataset": (GRPO._get_train_sampler, "self.shuffle_dataset"),
    "steps_per_generation": (OnlineTrainer._place, "self.args.steps_per_generation"),
    "temperature": (OnlineTrainer._take_over, "temperature=self.temperature"),
    "top_k": (MADE, '"top_k": self.top_k'),
    "top_p": (MADE, '"top_p": self.top_p'),
    "trust_remote_code": (MADE, "trust_remote_code=args.trust_remote_code,"),  # by vLLM's engine
    "use_vllm": (SAMPLED, "self.use_vllm"),
    "vllm_enable_sleep_mode": (MADE, "args.vllm_enable_sleep_mode"),
    "vllm_gpu_memory_utilization": (MADE, "args.vllm_gpu_memory_utilization"),
    "vllm_group_port": (MADE, "args.vllm_group_port"),
    "vllm_importance_sampling_clip_max": (Correction.of, "args.vllm_importance_sampling_clip_max"),
    "vllm_importance_sampling_clip_min": (Correction.of, "args.vllm_importance_sampling_clip_min"),
    "vllm_importance_sampling_correction": (Correction.of, "args.vllm_importance_sampling_correction"),
    "vllm_importance_sampling_mode": (Correction.of, "args.vllm_importance_sampling_mode"),
    "vllm_max_model_length": (MADE, "args.vllm_max_model_length"),
    "vllm_mode": (MADE, "args.vllm_mode"),
    "vllm_model_impl": (MADE, "args.vllm_model_impl"),
    "vllm_server_base_url": (MADE, "args.vllm_server_base_url"),
    "vllm_server_host": (MADE, "args.vllm_server_host"),
    "vllm_server_port": (MADE, "args.vllm_server_port"),
    "vllm_server_timeout": (MADE, "args.vllm_server_timeout"),
    "vllm_structured_outputs_regex": (MADE, "args.vllm_structured_outputs_regex"),
    "vllm_tensor_parallel_size": (MADE, "args.vllm_tensor_parallel_size"),
}


def test_every_option_of_trl_is_read_or_refused() -> None:
    own = {field.name for field in fields(trl.GRPOConfig)} - {f.name for f in fields(transformers.TrainingArguments)}
    assert own - UNREAD == READ.keys()


@pytest.mark.parametrize("name", READ)
def test_an_option_is_read_where_we_think(name: str) -> None:
    function, words = READ[name]
    assert words in inspect.getsource(function), f"{function.__qualname__} no longer reads {name}: refuse it"


# ---- of a script, whose options of TRL's objective are taken over as components ------------------------------
OBJECTIVE: dict[str, dict[str, Any]] = {  # each with what it needs, without which the objective is another one
    "beta": {"beta": 0.1},
    "delta": {"delta": 2.0},
    "entropy_coef": {"entropy_coef": 0.1},
    "epsilon": {"epsilon": 0.1},
    "epsilon_high": {"epsilon_high": 0.3},
    "importance_sampling_level": {"importance_sampling_level": "sequence"},
    "loss_type": {"loss_type": "grpo"},
    "sapo_temperature_neg": {"sapo_temperature_neg": 2.0, "loss_type": "sapo"},
    "sapo_temperature_pos": {"sapo_temperature_pos": 2.0, "loss_type": "sapo"},
    "scale_rewards": {"scale_rewards": "none"},
    "use_bias_correction_kl": {"use_bias_correction_kl": False, "beta": 0.1},
}
OF_A_SCRIPT: dict[str, tuple[Callable[..., Any], str]] = {
    "log_completions": (GRPO.log, "self.log_completions"),
    "log_completions_hub_repo": (MADE, "self.args.log_completions_hub_repo"),
    "log_multimodal": (GRPO._generate_and_score_completions, "self.log_multimodal"),  # of images, which go TRL's way
    "log_unique_prompts": (GRPO.log, "self.log_unique_prompts"),
    "max_tool_calling_iterations": (GRPO._tool_call_loop, "self.max_tool_calling_iterations"),  # so do tools
    "model_init_kwargs": (MADE, "args.model_init_kwargs"),
    "num_completions_to_print": (GRPO.log, "self.num_completions_to_print"),
    "num_generations_eval": (GRPO._get_eval_sampler, "self.num_generations_eval"),
    "ref_model_mixup_alpha": (SyncRefModelCallback.on_step_end, "args.ref_model_mixup_alpha"),
    "ref_model_sync_steps": (SyncRefModelCallback.on_step_end, "args.ref_model_sync_steps"),
    "reward_weights": (RewardFunctions.__call__, "reward_weights"),
    "sync_ref_model": (MADE, "args.sync_ref_model"),
    "vllm_importance_sampling_cap": (trl.GRPOConfig.__post_init__, "self.vllm_importance_sampling_cap"),
}


def test_no_option_of_a_script_is_ignored() -> None:
    """The page has the same table in words; what is in none of the three goes TRL's way or is refused."""
    own = {field.name for field in fields(trl.GRPOConfig)} - {f.name for f in fields(transformers.TrainingArguments)}
    on_engine = {name for name, way in ways("OnlineTrainer").items() if way == "engine"}
    assert own & on_engine == READ.keys() | OBJECTIVE.keys() | OF_A_SCRIPT.keys()


@pytest.mark.parametrize("name", OF_A_SCRIPT)
def test_an_option_of_a_script_is_read_where_we_think(name: str) -> None:
    function, words = OF_A_SCRIPT[name]
    assert words in inspect.getsource(function), f"{function.__qualname__} no longer reads {name}: refuse it"


@pytest.mark.parametrize("name", OBJECTIVE)
def test_an_option_of_the_objective_changes_ours(name: str, tmp_path: Path) -> None:
    def made(options: dict[str, Any]) -> Objective:
        args = trl.GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, **options)
        return objective_of(args, OnlineOptions(), print, None)

    asked = OBJECTIVE[name]
    assert made(asked) != made({other: value for other, value in asked.items() if other != name})
    assert made(asked) == made(asked)
