"""Every name of TRL, transformers, PEFT and torch that we use although nobody promises it: a failure names the change.

Names that their documentation lists as public are not here; operators of torch are in `test_private_operators.py`.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import bitsandbytes
import peft.utils.other
import pytest
import torch
import torch.utils._python_dispatch
import transformers
import trl
import trl.trainer.utils
from accelerate import Accelerator
from accelerate.data_loader import SkipBatchSampler
from accelerate.state import GradientState
from peft import LoraConfig
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer, _maybe_include_all_linear_layers
from peft.utils import ModulesToSaveWrapper
from torch import nn
from torch.distributed.fsdp._fully_shard import FSDPModule, _fsdp_param_group, _fsdp_state
from transformers import GenerationConfig, StoppingCriteriaList, activations, cache_utils, generation, masking_utils
from transformers.generation.utils import GenerationMixin
from transformers.integrations import sdpa_attention
from transformers.models.llama import modeling_llama
from trl.trainer.grpo_trainer import RepeatSampler

ENGINE = Path(__file__).parents[1] / "rlhf_plugins" / "engine"

MEMBERS: list[tuple[Any, str, str]] = [
    (GradientState, "_set_sync_gradients", "under DeepSpeed no micro-batch but the last is a step"),
    (trl.DPOTrainer, "compute_loss", "PreferenceTrainer replaces it"),
    (trl.DPOTrainer, "compute_ref_log_probs", "PreferenceTrainer replaces it"),
    (trl.DPOTrainer, "_precompute_ref_logps", "it calls our compute_ref_log_probs with our collator's batches"),
    (trl.DPOTrainer, "_prepare_dataset", "it makes prompt_ids, chosen_ids, rejected_ids"),
    (trl.RewardTrainer, "compute_loss", "RewardTrainer replaces it"),
    (
        trl.RewardTrainer,
        "_prepare_dataset",
        "it makes chosen_ids, rejected_ids; RewardTrainer skips it for ranked rows",
    ),
    (trl.RewardTrainer, "_set_signature_columns_if_needed", "RewardTrainer replaces it, to keep all columns"),
    (trl.SFTTrainer, "_set_signature_columns_if_needed", "SFTTrainer replaces it, to keep the weights of rows"),
    (torch.optim.Adam, "_init_group", "it allocates the state before the first step"),
    (trl.GRPOTrainer, "_prepare_inputs", "OnlineTrainer rolls out in its place"),
    (trl.generation.vllm_generation.VLLMGeneration, "_iter_named_params", "the critic is left out of it"),
    (trl.GRPOTrainer, "_compute_loss", "OnlineTrainer replaces it"),
    (trl.GRPOTrainer, "_generate", "OnlineTrainer samples with it"),
    (trl.GRPOTrainer, "_tokenize_prompts", "OnlineTrainer replaces it, to render prompts as everything else does"),
    (trl.GRPOTrainer, "_calculate_rewards", "OnlineTrainer asks a script's reward functions with it"),
    (trl.GRPOTrainer, "_generate_and_score_completions", "OnlineTrainer adds the parts of rewards in TRL's own way"),
    (
        trl.trainer.utils,
        "is_async_callable",
        "OnlineTrainer wraps asynchronous functions as such",
    ),
    (trl.trainer.utils, "nanstd", "TRL's metrics of rewards are computed with it"),
    (trl.GRPOTrainer, "get_train_dataloader", "it gives _prepare_inputs a whole generation batch"),
    *(
        (transformers.Trainer, name, "Resumable replaces it, so that a training goes on from a checkpoint of ours")
        for name in (
            "_load_best_model",
            "_load_from_checkpoint",
            "_load_optimizer_and_scheduler",
            "_load_rng_state",
            "_load_scaler",
            "_maybe_log_save_evaluate",
            "_prepare_for_training",
            "_run_epoch",
            "_save_optimizer_and_scheduler",
            "_save_rng_state",
            "_save_scaler",
        )
    ),
    (transformers.Trainer, "_get_grad_norm", "under DeepSpeed OnlineTrainer replaces it where a step is skipped"),
    (transformers.Trainer, "_clip_grad_norm", "OnlineTrainer takes the policy's gradients away before it"),
    (transformers.Trainer, "_get_dataloader", "SharesBatches replaces it, so that a process computes its own rows"),
    (transformers.trainer_callback.ExportableState, "state", "a checkpoint holds the state of such callbacks"),
    (trl.trainer.utils, "use_adapter", "the reference of an adapter that TRL copied is computed with it"),
    (peft.utils.other, "AuxiliaryTrainingWrapper", "`base_weights` leaves out what it adds to a model"),
    (BaseTunerLayer, "adapter_layer_names", "`base_weights` leaves out what it adds to a model"),
    (BaseTunerLayer, "other_param_names", "`base_weights` leaves out what it adds to a model"),
    (BaseTunerLayer, "_cast_input_dtype", "`casts` leaves out what it does"),
    (
        torch.utils._python_dispatch,
        "_disable_current_modes",
        "nothing counts the trials of `casts`, `half` and `compiled`",
    ),
    (torch, "_foreach_copy_", "weights of adapters are cast with it, all of a layer at once"),
    (FSDPModule, "_get_fsdp_state", "`gathered` sets what it says of gathered weights back"),
    (_fsdp_state.FSDPState, "_fsdp_param_group", "`gathered` sets what it says of gathered weights back"),
    (_fsdp_param_group.FSDPParamGroup, "_reshard_after_forward", "`gathered` sets it back"),
    (peft.tuners.tuners_utils, "check_target_module_exists", "it finds the layers of `layers_to_transform` in a trunk"),
    (BaseTunerLayer, "_active_adapter", "`active_adapter` sets it"),
    (BaseTunerLayer, "_disable_adapters", "`active_adapter` sets it"),
    (peft.tuners.lora.variants, "DoraLinearVariant", "an adapter is folded into a weight by it"),
    (GenerationMixin, "_update_model_kwargs_for_generation", "our decoding loop calls it after each token"),
    (StoppingCriteriaList, "max_length", "our decoding loop allocates the cache for as many tokens"),
    (GenerationMixin, "_sample", "the loop over a static cache calls it where it cannot help"),
    (cache_utils, "CacheLayerMixin", "the layers of a static cache are such"),
    (transformers.EosTokenCriteria([1]), "eos_token_id", "the loop over a static cache ends rows at them"),
    (generation, "GenerationMode", "our decoding loops run in two of its modes"),
    (GenerationConfig, "get_generation_mode", "our decoding loop runs in two of the modes"),
    (cache_utils, "DynamicLayer", "our decoding loop allocates its keys and values once"),
    (cache_utils.DynamicLayer, "lazy_initialization", "our decoding loop calls it before the first token"),
    (cache_utils.DynamicLayer, "get_seq_length", "our decoding loop writes keys behind those that it counts"),
    (activations, "SiLUActivation", "gated blocks with it are fused"),
    (activations, "GELUTanh", "gated blocks with it are fused"),
    (sdpa_attention, "sdpa_attention_forward", "it computes the attention over rows that are not packed"),
    (sdpa_attention, "repeat_kv", "it repeats keys and values for the heads that share them"),
    (masking_utils, "sdpa_mask", "it makes the masks of rows that are not packed"),
    (modeling_llama, "apply_rotary_pos_emb", "fused rotations take the place of this function"),
    (transformers.utils, "logging", "`loading` silences its report of missing weights, which becomes an error"),
    (nn.Linear(1, 1), "_forward_hooks", "a gated block with hooks on a layer is not fused"),
    (nn.Linear(1, 1), "_forward_pre_hooks", "a gated block with hooks on a layer is not fused"),
]

PARAMETERS: list[tuple[Any, set[str], str]] = [
    (GenerationMixin.generate, {"custom_generate"}, "it takes our decoding loop"),
    (
        GenerationMixin.prepare_inputs_for_generation,
        {"input_ids", "next_sequence_length", "is_first_iteration"},
        "our decoding loop passes them",
    ),
    (GenerationMixin._update_model_kwargs_for_generation, {"outputs", "model_kwargs"}, "our decoding loop passes them"),
    (cache_utils.DynamicLayer.update, {"key_states", "value_states"}, "our cache layers override it"),
    (sdpa_attention.sdpa_attention_forward, {"attention_mask", "dropout", "scaling", "is_causal"}, "ours passes them"),
    (modeling_llama.apply_rotary_pos_emb, {"q", "k", "cos", "sin", "unsqueeze_dim"}, "fused rotations take them"),
]

IN_THE_SOURCE: list[tuple[Any, str, str]] = [
    (Accelerator.prepare_data_loader, "self.num_processes", "SharesBatches sets it to 1, so that batches stay whole"),
    (Accelerator.backward, "sync_gradients=self.sync_gradients", "under DeepSpeed it then is a step"),
    (transformers.Trainer._get_dataloader, "self.accelerator.prepare(", "batches are whole while it prepares them"),
    (torch.optim.lr_scheduler.LRScheduler.get_last_lr, "self._last_lr", "an alarm scales the rate that is logged"),
    (trl.DPOTrainer.__init__, 'self._metrics = {"train": defaultdict(list)', "we append our metrics to it"),
    (trl.DPOTrainer.__init__, "self.ref_model = ", "compute_ref_log_probs reads it"),
    (trl.DPOTrainer.__init__, "self._is_vlm = ", "models of images go TRL's way"),
    (trl.DPOTrainer.__init__, "self.aux_loss_enabled = ", "mixtures of experts with a loss of their own go TRL's way"),
    (trl.DPOTrainer.__init__, 'model.add_adapter("ref"', "the reference of a model with an adapter is that adapter"),
    (trl.DPOTrainer.__init__, "self._total_train_tokens = 0", "we count on for `num_tokens`"),
    (trl.DPOTrainer.__init__, "self._precompute_ref_logps(", "it runs before the engine takes over: it is put off"),
    (trl.DPOTrainer.evaluate, "self._precompute_ref_logps(", "ours fills in the columns of such a data set"),
    (trl.DPOTrainer._precompute_ref_logps, "self.compute_ref_log_probs(model, padded_batch)", "ours must be called"),
    (trl.DPOTrainer._precompute_ref_logps, '"ref_chosen_logps"', "our collator passes these columns on"),
    (trl.DPOTrainer._set_signature_columns_if_needed, '"prompt_ids"', "these columns must reach our collator"),
    (trl.RewardTrainer.__init__, 'self._metrics = {"train": defaultdict(list)', "we append our metrics to it"),
    (
        transformers.Trainer._run_epoch,
        "self._get_grad_norm(model, grad_norm=grad_norm)\n\n                    "
        "self.control = self.callback_handler.on_pre_optimizer_step(",
        "max_grad_value clips what the norm has unscaled",
    ),
    (transformers.Trainer._get_grad_norm, 'clip_grad_norm_(model.parameters(), float("inf"))', "the same"),
    (
        transformers.Trainer._inner_training_loop,
        "self._globalstep_last_logged = self.state.global_step\n\n        model.zero_grad()\n\n        "
        "self.control = self.callback_handler.on_train_begin(",
        "a checkpoint sets these sums back when a training begins",
    ),
    *(
        (transformers.Trainer._inner_training_loop, words, "a checkpoint holds it")
        for words in ("self._tr_loss = ", "self._total_loss_scalar = ", "self._initial_global_step = ")
    ),
    (transformers.Trainer.store_flos, "self.current_flos = 0", "a checkpoint holds it"),
    (
        transformers.Trainer._run_epoch,
        "rng_to_sync:\n                self._load_rng_state(resume_from_checkpoint)",
        "the random state is set after the first batches are drawn again",
    ),
    (
        transformers.Trainer._run_epoch,
        "train_dataloader.set_epoch(epoch)",
        "the order of an epoch that a training goes on in is that epoch's",
    ),
    (RepeatSampler.__iter__, "torch.randperm(self.num_samples, generator=self.generator)", "the same"),
    (RepeatSampler.__init__, "self.generator.manual_seed(seed)", "the same"),
    (SkipBatchSampler.__init__, "self.batch_sampler = batch_sampler", "set_epoch reaches the order through it"),
    (trl.RewardTrainer.__init__, "self._total_train_tokens = 0", "we count tokens in it"),
    (
        trl.RewardTrainer._prepare_dataset,
        "if args.max_length is not None",
        "ours counts what is too long",
    ),
    (
        transformers.Trainer.evaluation_loop,
        "logits = self.gather_function(logits)",
        "ours keeps all rewards",
    ),
    (ModulesToSaveWrapper.update, "self.modules_to_save[adapter_name] = copy", "ours trains the copy of a head"),
    (trl.RewardTrainer.__init__, "num_labels", "RewardModel sets it to 1 because TRL asks for it"),
    (trl.GRPOTrainer.__init__, "self._step = 0", "_prepare_inputs counts minibatches by it"),
    (trl.GRPOTrainer.training_step, "self._step += 1", "_prepare_inputs counts minibatches by it"),
    (trl.GRPOTrainer.__init__, "self.num_iterations = ", "it repeats a rollout's minibatches"),
    (trl.GRPOTrainer.__init__, "self.num_generations = ", "it is the size of a group"),
    (trl.GRPOTrainer.__init__, "self.temperature = ", "log-probabilities are taken at it"),
    (trl.GRPOTrainer.__init__, "self.eos_token_ids = ", "a response that ends with none of them is penalised"),
    (trl.GRPOTrainer.__init__, "self._tokenizer = ", "its padding token fills our batches"),
    (trl.GRPOTrainer.__init__, "self._metrics = ", "we append our metrics to it"),
    (trl.GRPOTrainer.__init__, "self._is_vlm = ", "models of images go TRL's way"),
    (trl.GRPOTrainer.__init__, "self.aux_loss_enabled = ", "mixtures of experts with a loss of their own go TRL's way"),
    (trl.GRPOTrainer.__init__, "self.ref_model = create_model_from_path(", "it is the reference where beta is not 0"),
    (trl.GRPOTrainer.__init__, 'model.add_adapter("ref"', "the reference of a model with an adapter is that adapter"),
    (trl.GRPOTrainer.__init__, "self.epsilon_low = ", "clip_ratio is counted by it"),
    (trl.GRPOTrainer.__init__, "self.reward_func_names", "metrics of rewards have these names"),
    (trl.GRPOTrainer.__init__, "self.reward_funcs = ", "we wrap the functions there"),
    (trl.GRPOTrainer.__init__, "self.reward_weights = ", "rewards are summed with them"),
    (trl.GRPOTrainer.__init__, "self._logs = {", "log_completions writes what we keep there"),
    (trl.GRPOTrainer.__init__, "self._pending_extra_logs = ", "reward functions log there"),
    (trl.GRPOTrainer.__init__, "self._pending_metrics = ", "reward functions log there"),
    (trl.trainer.utils.shuffle_sequence_dict, "torch.randperm(batch_size)", "a script's minibatches are TRL's"),
    (trl.GRPOTrainer._get_train_sampler, "mini_repeat_count=self.num_generations", "groups come as neighbours"),
    (trl.GRPOTrainer._compute_loss, "self.current_gradient_accumulation_steps", "we divide the loss by it ourselves"),
    (RepeatSampler.__iter__, "len(chunk) == self.batch_size", "every generation batch is full"),
    (GenerationMixin.generate, "decoding_method = custom_generate", "it must call our decoding loop"),
    (GenerationMixin.generate, "logits_processor=prepared_logits_processor,", "our decoding loop takes it by name"),
    (GenerationMixin.generate, "stopping_criteria=prepared_stopping_criteria,", "our decoding loop takes it by name"),
    (GenerationMixin.generate, "generation_config=generation_config,", "our decoding loop takes it by name"),
    (
        cache_utils.DynamicLayer.get_seq_length,
        "self.keys.shape[-2]",
        "our cache layer sets `keys` to all tokens so far",
    ),
    (
        masking_utils._preprocess_mask_arguments,
        "len(attention_mask.shape) == 4",
        "decoders pass our 4-D mask on as it is",
    ),
    (modeling_llama.LlamaAttention.forward, "= apply_rotary_pos_emb(", "fused rotations take the place of this call"),
    (modeling_llama.LlamaAttention.forward, "self.config._attn_implementation", "we set it to packed attention"),
    (_maybe_include_all_linear_layers, 'linear_names = ("Linear",)', "our LoRA layer is called Linear for this"),
    (lora.Linear.forward, "x = self._cast_input_dtype(x, lora_A.weight.dtype)", "`casts` replaces this call"),
    (
        transformers.PreTrainedModel._set_gradient_checkpointing,
        '"_gradient_checkpointing_func", gradient_checkpointing_func',
        "`active_adapter` has a layer recompute with the adapter of its block by it",
    ),
    (trl.SFTTrainer.compute_loss, 'self._metrics[mode]["entropy"].append', "ours joins the means of a batch's parts"),
    (
        trl.SFTTrainer.compute_loss,
        'self._metrics[mode]["mean_token_accuracy"].append',
        "ours joins the means of a batch's parts",
    ),
    (lora.Linear.merge, "base_layer.weight.data", "folding restores the weight by its `data`"),
    (peft.utils.other.AuxiliaryTrainingWrapper.__init__, "self._active_adapter =", "`active_adapter` sets it"),
    (peft.utils.other.AuxiliaryTrainingWrapper.__init__, "self._disable_adapters =", "`active_adapter` sets it"),
    (transformers.PreTrainedModel.from_pretrained, "output_loading_info", "`loading` refuses missing weights by it"),
]

LORA_ATTRIBUTES = [
    "base_layer",
    "get_base_layer",
    "lora_A",
    "lora_B",
    "lora_dropout",
    "lora_variant",
    "scaling",
    "merged",
    "merged_adapters",
    "disable_adapters",
    "active_adapter",
    "active_adapters",
]


@pytest.mark.parametrize(("owner", "name", "why"), MEMBERS, ids=lambda value: getattr(value, "__name__", None))
def test_a_member_that_we_use_is_there(owner: Any, name: str, why: str) -> None:
    assert hasattr(owner, name), f"{owner.__name__}.{name} is gone, but {why}"


@pytest.mark.parametrize(("function", "names", "why"), PARAMETERS, ids=lambda v: getattr(v, "__qualname__", None))
def test_a_function_has_the_parameters_that_we_use(function: Any, names: set[str], why: str) -> None:
    missing = names - inspect.signature(function).parameters.keys()
    assert not missing, f"{function.__qualname__} no longer has {', '.join(sorted(missing))}, but {why}"


@pytest.mark.parametrize(("function", "words", "why"), IN_THE_SOURCE, ids=lambda v: getattr(v, "__qualname__", None))
def test_code_that_we_rely_on_is_there(function: Any, words: str, why: str) -> None:
    assert words in inspect.getsource(function), f"{function.__qualname__} no longer has `{words}`, but {why}"


def test_a_lora_layer_has_the_attributes_that_we_read() -> None:
    layer: Any = lora.Linear(nn.Linear(2, 2), "default", LoraConfig(r=1), r=1)
    assert [name for name in LORA_ATTRIBUTES if not hasattr(layer, name)] == []
    assert (type(layer.lora_dropout["default"]), layer.lora_A["default"].weight.shape) == (nn.Identity, (1, 2))


def test_a_cache_layer_and_a_generation_config_have_the_attributes_that_we_read() -> None:
    assert not cache_utils.DynamicLayer().is_initialized
    assert hasattr(cache_utils.DynamicCache(), "layers")
    assert (GenerationConfig().prefill_chunk_size, GenerationConfig().return_dict_in_generate) == (None, None)


def test_a_4_bit_layer_has_the_attribute_that_we_set() -> None:
    layer: Any = bitsandbytes.nn.Linear4bit(2, 2)
    assert hasattr(layer, "support_avx512bf16_for_cpu"), "`loading` prevents a repacking by it"


def test_blocks_and_norms_have_the_attributes_that_we_read() -> None:
    config = transformers.LlamaConfig(hidden_size=4, intermediate_size=8, num_attention_heads=1)
    block, norm = modeling_llama.LlamaMLP(config), modeling_llama.LlamaRMSNorm(4, eps=0.5)
    assert {name for name, _ in block.named_children()} == {"gate_proj", "up_proj", "down_proj", "act_fn"}
    assert norm.variance_epsilon == 0.5
    layer = modeling_llama.LlamaDecoderLayer(config, 0)
    assert {"post_attention_layernorm", "mlp"} <= {name for name, _ in layer.named_children()}
    assert layer.gradient_checkpointing is False


def test_every_private_name_that_the_engine_uses_is_here() -> None:
    """Modules within transformers and PEFT, operators of torch, and attributes that begin with an underscore."""
    files = (Path(__file__), Path(__file__).with_name("test_private_operators.py"))
    listed = "".join(file.read_text(encoding="utf-8") for file in files)
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in ENGINE.rglob("*.py")}
    nodes = [(file, node) for file, tree in trees.items() for node in ast.walk(tree)]
    ours = {node.name for _, node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for file, node in nodes:
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("transformers.", "peft.")):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "_Switch") or node.attr in ours
            names = [] if own else [node.attr]
        for name in names:
            assert name in listed, f"{file.name} uses {name}, which this file does not list"


def test_generation_returns_what_we_unpack() -> None:
    returned = inspect.getsource(trl.GRPOTrainer._generate).rstrip().rpartition("return ")[2]
    first = [name.strip() for name in returned.split(",")][:5]
    assert first == ["prompt_ids", "completion_ids", "tool_mask", "completions", "logprobs"], (
        f"GRPOTrainer._generate returns {first}..., but `ppo.rollout` unpacks prompts, responses, texts, nats"
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


def test_the_number_of_gpus_is_the_attribute_that_we_set(tmp_path: Path) -> None:
    args: Any = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    args._n_gpu = 3
    assert args.n_gpu == 3, "`precision.on_one_gpu` sets `_n_gpu`, so that no model is copied to a second GPU"


def test_what_a_forecast_imitates_and_traces_with_is_there() -> None:
    from bitsandbytes.autograd._functions import MatmulLtState
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
    from torch.utils._pytree import tree_iter
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

    assert transformers.BertConfig in MODEL_FOR_MASKED_LM_MAPPING
    assert {"has_fp16_weights", "threshold"} <= vars(MatmulLtState).keys()
    assert callable(tree_iter)
    assert callable(_disable_current_modes)
    assert issubclass(FakeTensorMode, TorchDispatchMode)
    assert hasattr(torch.empty(1).untyped_storage(), "_cdata")
