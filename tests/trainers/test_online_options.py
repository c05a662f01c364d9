"""Every option that TRL adds to TrainingArguments is read while a policy trains on its own samples, or refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import transformers
import trl

from rlhf_plugins.stages.online import UNREAD
from rlhf_plugins.trainers.online.trainer import OnlineTrainer
from rlhf_plugins.trainers.ppo.importance import Correction
from rlhf_plugins.trainers.ppo.rollout import Rollouts

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
