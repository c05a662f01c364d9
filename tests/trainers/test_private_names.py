"""Every name of TRL, transformers and PEFT that we lean on without a promise; a failure here says what has moved."""

from __future__ import annotations

import inspect
from typing import Any

import peft
import pytest
import transformers
import trl
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers.trainer_callback import ProgressCallback
from trl.trainer.grpo_trainer import RepeatSampler

LEANT_ON: list[tuple[type, str, str]] = [
    (trl.DPOTrainer, "compute_loss", "PreferenceTrainer replaces it"),
    (trl.DPOTrainer, "compute_ref_log_probs", "PreferenceTrainer replaces it"),
    (trl.DPOTrainer, "_precompute_ref_logps", "it calls our compute_ref_log_probs with our collator's batches"),
    (trl.DPOTrainer, "_prepare_dataset", "it makes prompt_ids, chosen_ids, rejected_ids"),
    (trl.RewardTrainer, "compute_loss", "RewardTrainer replaces it"),
    (trl.RewardTrainer, "_prepare_dataset", "it makes chosen_ids, rejected_ids and drops long pairs"),
    (trl.GRPOTrainer, "_prepare_inputs", "OnlineTrainer rolls out in its place"),
    (trl.GRPOTrainer, "_compute_loss", "OnlineTrainer replaces it"),
    (trl.GRPOTrainer, "_generate", "OnlineTrainer samples with it"),
    (trl.GRPOTrainer, "get_train_dataloader", "it gives _prepare_inputs a whole generation batch"),
    (transformers.Trainer, "remove_callback", "our progress bar takes the place of the stock one"),
    (ProgressCallback, "on_log", "our progress bar prints no dictionaries"),
    (peft.PeftModel, "disable_adapter", "the reference is the policy without its adapter"),
    (peft.PeftModel, "get_base_model", "it leads to the decoder"),
    (peft.LoraModel, "merge_and_unload", "sft and export merge the adapter"),
    (BaseTunerLayer, "_active_adapter", "`wearing` sets it"),
    (BaseTunerLayer, "_disable_adapters", "`wearing` sets it"),
    (transformers.PreTrainedModel, "base_model", "it leads to the decoder"),
    (transformers.PreTrainedModel, "get_output_embeddings", "the head is given scored places alone"),
]

IN_THE_SOURCE: list[tuple[Any, str, str]] = [
    (trl.DPOTrainer.__init__, 'self._metrics = {"train": defaultdict(list)', "we append our metrics to it"),
    (trl.DPOTrainer.__init__, "self.ref_model = ", "compute_ref_log_probs reads it"),
    (trl.DPOTrainer._precompute_ref_logps, "self.compute_ref_log_probs(model, padded_batch)", "ours must be called"),
    (trl.DPOTrainer._precompute_ref_logps, '"ref_chosen_logps"', "our collator passes these columns on"),
    (trl.DPOTrainer._set_signature_columns_if_needed, '"prompt_ids"', "these columns must reach our collator"),
    (trl.RewardTrainer._set_signature_columns_if_needed, '"margin"', "the margin must reach our collator"),
    (trl.RewardTrainer.__init__, 'self._metrics = {"train": defaultdict(list)', "we append our metrics to it"),
    (trl.RewardTrainer.__init__, "num_labels", "RewardModel sets it to 1 because TRL asks for it"),
    (trl.GRPOTrainer.__init__, "self._step = 0", "_prepare_inputs counts minibatches by it"),
    (trl.GRPOTrainer.training_step, "self._step += 1", "_prepare_inputs counts minibatches by it"),
    (trl.GRPOTrainer.__init__, "self.num_iterations = ", "it repeats a rollout's minibatches"),
    (trl.GRPOTrainer.__init__, "self.num_generations = ", "it is the size of a group"),
    (trl.GRPOTrainer.__init__, "self.temperature = ", "log-probabilities are taken at it"),
    (trl.GRPOTrainer.__init__, "self.epsilon_low = ", "the ratio is clipped by it"),
    (trl.GRPOTrainer.__init__, "self.eos_token_ids = ", "a response that ends with none of them is penalised"),
    (trl.GRPOTrainer.__init__, "self._tokenizer = ", "its padding token fills our batches"),
    (trl.GRPOTrainer.__init__, "self._metrics = ", "we append our metrics to it"),
    (trl.GRPOTrainer._get_train_sampler, "mini_repeat_count=self.num_generations", "groups come as neighbours"),
    (trl.GRPOTrainer._compute_loss, "self.current_gradient_accumulation_steps", "we divide the loss by it ourselves"),
    (RepeatSampler.__iter__, "len(chunk) == self.batch_size", "every generation batch is full"),
]


@pytest.mark.parametrize(("cls", "name", "why"), LEANT_ON, ids=lambda value: getattr(value, "__name__", None))
def test_a_method_that_we_lean_on_is_there(cls: type, name: str, why: str) -> None:
    assert hasattr(cls, name), f"{cls.__module__}.{cls.__name__}.{name} is gone, but {why}"


@pytest.mark.parametrize(("function", "words", "why"), IN_THE_SOURCE, ids=lambda v: getattr(v, "__qualname__", None))
def test_an_attribute_that_we_lean_on_is_there(function: Any, words: str, why: str) -> None:
    assert words in inspect.getsource(function), f"{function.__qualname__} no longer says `{words}`, but {why}"


def test_generation_returns_what_we_unpack() -> None:
    returned = inspect.getsource(trl.GRPOTrainer._generate).rstrip().rpartition("return ")[2]
    first = [name.strip() for name in returned.split(",")][:4]
    assert first == ["prompt_ids", "completion_ids", "tool_mask", "completions"], (
        f"GRPOTrainer._generate returns {first}..., but OnlineTrainer unpacks prompts, responses, a mask and texts"
    )


def test_one_generation_is_refused_after_everything_else_is_set() -> None:
    checks = inspect.getsource(trl.GRPOConfig.__post_init__).partition("at least 2 generations")
    assert checks[1], "GRPOConfig no longer refuses one generation: OnlineConfig may go"
    assert "self." not in checks[2].replace("self.vllm_", "").replace("self.num_generations}", ""), (
        "GRPOConfig now sets something after it refuses one generation, which OnlineConfig skips"
    )


def test_losses_are_scaled_for_accumulation_as_we_assume() -> None:
    """Ours are means that Trainer divides, but for GRPO's, which divides itself, as ours then does."""
    scaled = [cls.loss_is_scaled_for_ga for cls in (trl.RewardTrainer, trl.DPOTrainer, trl.GRPOTrainer)]
    assert scaled == [False, False, True], "TRL changed who divides a loss by the accumulation steps"


def test_a_quantized_models_adapter_is_still_rounded_by_trl() -> None:
    """`trainable` undoes it; when TRL stops, so may we."""
    assert "param.data.to(torch.bfloat16)" in inspect.getsource(trl.DPOTrainer.__init__)
