"""Loads models and tokenizers from a folder or the hub."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.contract.run import Adapter, Base
from rlhf_plugins.data.batches.chat import whole_template
from rlhf_plugins.data.batches.tokens import RowEncoder, encodes_pairs, without_end
from rlhf_plugins.data.digests import refuse_changed
from rlhf_plugins.data.partial_reads import refuse_base
from rlhf_plugins.engine.compiled import compile_layers
from rlhf_plugins.engine.cost import counted
from rlhf_plugins.engine.cpu import linear_layer
from rlhf_plugins.engine.cpu.feed_forward import fuse_gated_blocks
from rlhf_plugins.engine.cpu.norm import fuse_norms
from rlhf_plugins.engine.cpu.rotation import fuse_rotations
from rlhf_plugins.engine.forward import evaluating, inner_of, trunk_of
from rlhf_plugins.engine.half import lora as half_lora
from rlhf_plugins.engine.half.casting import cast_at_once
from rlhf_plugins.engine.half.gated import fuse_half_gated
from rlhf_plugins.engine.half.norm import fuse_half_norms
from rlhf_plugins.engine.half.rotation import fuse_half_rotations
from rlhf_plugins.engine.layers import decoder_layers
from rlhf_plugins.engine.precision import INT8, NF4, half_precision, known_quantization
from rlhf_plugins.engine.progress import loading
from rlhf_plugins.engine.shared_keys import attend_by_fused_kernels
from rlhf_plugins.engine.weights.decoders import refuse_encoder
from rlhf_plugins.engine.weights.matching import UNLOADABLE, refuse_misfit, refuse_pickled
from rlhf_plugins.engine.weights.targets import refuse_unmatched
from rlhf_plugins.errors import RunError

logger = logging.getLogger(__name__)
PICKLES = "its weights are pickled, and a pickle can run code; save them as safetensors"
HEADS = ("score.", "classifier.", "v_head.", "value_head.")  # of classifiers and reward models
UNUSED = "pooler."  # an encoder's weights above its last hidden states


def load_tokenizer(base: Base) -> PreTrainedTokenizerBase:
    """The base's tokenizer, which renders as its `chat` says; EOS pads if nothing does, SEP is the EOS of an encoder.

    Raises:
        RunError: there is no tokenizer, it has no EOS token, or no chat template that the recipe's options need.
    """
    refuse_base(base.path, base.trust_remote_code)
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.path, trust_remote_code=base.trust_remote_code)
    except (OSError, ValueError) as error:
        if os.path.isabs(base.path) and not os.path.isdir(base.path):
            raise RunError(f"base {base.path}: there is no such folder; a base has to stay where it was") from error
        if not os.path.isdir(base.path):
            from rlhf_plugins.data.other_run import bases_beside

            near = get_close_matches(base.path, bases_beside(base.path), n=1)
            here = f"there is no such folder{f' (did you mean {near[0]}?)' if near else ''}"
            raise RunError(f"base {base.path}: {here}, and the hub gave no model: {reason(error)}") from error
        raise RunError(f"base {base.path}: its tokenizer does not load: {reason(error)}") from error
    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is not None:
        tokenizer.eos_token = tokenizer.sep_token
    if tokenizer.eos_token_id is None:
        raise RunError(f"base {base.path}: its tokenizer has no EOS token, so no response could end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if base.chat is not None:
        if encodes_pairs(tokenizer):
            raise RunError(f"base {base.path}: is an encoder, which reads conversations without a chat template")
        try:
            tokenizer.chat_template = whole_template(tokenizer.chat_template, base.chat)
        except RunError as error:
            raise RunError(f"base {base.path}: {error}") from error
    return tokenizer


def load_row_encoder(base: Base) -> RowEncoder:
    """The base's tokenizer with the most tokens that the base takes."""
    tokenizer, config = load_tokenizer(base), load_config(base)
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if rows is not None and (beyond := [name for name, token in tokenizer.get_vocab().items() if token >= rows]):
        names = ", ".join(sorted(beyond)[:3])
        have = f"its embedding has {rows} rows, and its tokenizer has tokens beyond them: {names}"
        raise RunError(f"base {base.path}: {have}; resize the embedding, or take the model's own tokenizer")
    limits = [positions(config)]
    if encodes_pairs(tokenizer):
        limits.append(tokenizer.model_max_length)  # fewer, if an encoder's positions start above 0, as RoBERTa's
    return RowEncoder(tokenizer, min((limit for limit in limits if limit), default=None), base.lengths)


def load_policy_encoder(base: Base) -> RowEncoder:
    """The same of a base that is a policy, before its weights load. Raises RunError as `refuse_encoder` too."""
    encoder = load_row_encoder(base)
    refuse_encoder(base.path, load_config(base))
    return encoder


def load_config(base: Base) -> Any:
    """The base's configuration."""
    return AutoConfig.from_pretrained(base.path, trust_remote_code=base.trust_remote_code)


def positions(config: Any) -> int | None:
    """The most tokens that a model takes by its configuration; None where it does not say."""
    found: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found


def cut_off(base: Base) -> Callable[[Samples], list[bool]]:
    """A function of samples in the base's tokens: whether each response was cut where it was sampled.

    A reward that reads texts asks it: such a response has no end, and `encode(..., cut=...)` of a reward model gives it
    none.
    """
    tokenizer = load_tokenizer(base)
    return lambda samples: without_end(samples, tokenizer)


def load_causal(base: Base) -> PreTrainedModel:
    """The base with its language-model head, without an adapter. Raises RunError if it does not load."""
    return _load(AutoModelForCausalLM, base)


def load_to_adapt(base: Base) -> PreTrainedModel:
    """The same, where a trainer makes the base's adapter. Raises RunError as `load_causal` and `refuse_unmatched`."""
    model = load_causal(base)
    refuse_unmatched(model, base.adapter)
    return model


def load_trunk(base: Base) -> PreTrainedModel:
    """The base without a head: hidden states only. Raises RunError if it does not load."""
    return _load(AutoModel, base)


def with_fast_paths(model: PreTrainedModel) -> PreTrainedModel:
    """The model, in evaluation mode, with the layers of `engine/cpu` and `engine/half` that agree with its own."""
    fused: PreTrainedModel = fuse_rotations(fuse_norms(fuse_gated_blocks(linear_layer.use_onednn(model))))
    return with_half_paths(fused)


def with_half_paths(model: Any) -> Any:
    """The model, quantized or not, with the layers of `engine/half` in place of those in half precision.

    It attends by `shared_keys`.
    """
    attend_by_fused_kernels()
    return fuse_half_rotations(fuse_half_norms(fuse_half_gated(model)))


def use_fast_paths(model: Any) -> None:
    """Gives a plain or PEFT model that a script loaded the layers that a recipe's would have, where they are active."""
    inner = inner_of(model)
    without_repacking(inner)
    if getattr(inner.config, "quantization_config", None) is None:
        with evaluating(model):
            with_fast_paths(inner)
    else:
        with_half_paths(inner)
    fuse_adapters(model)
    if processes.launched() == 1:  # it was not tried in several
        compile_layers(trunk_of(model))


def fuse_adapters(model: Any) -> Any:
    """The model, with the LoRA layers of `engine/cpu` where they are active, and those of `engine/half` elsewhere."""
    fused = half_lora.fuse_lora(linear_layer.fuse_lora(model))
    cast_at_once(decoder_layers(trunk_of(fused)))
    return fused


def freeze_below(trunk: PreTrainedModel, layers: int) -> PreTrainedModel:
    """The trunk with only its top `layers` trainable: embeddings, lower layers and a last norm are frozen.

    Raises:
        RunError: it has fewer layers, or its stack of layers cannot be found.
    """
    if layers == 0:
        return trunk.requires_grad_(False)
    stack = decoder_layers(trunk)
    if stack is None or layers > len(stack):
        raise RunError(f"train_layers: {layers} of {type(trunk).__name__}, which has {len(stack or ()) or 'no'} layers")
    kept = {id(weights) for layer in stack[len(stack) - layers :] for weights in layer.parameters()}
    for weights in trunk.parameters():
        weights.requires_grad_(id(weights) in kept)
    return trunk


def lora_config(adapter: Adapter, task: str | None = None) -> LoraConfig:
    """PEFT's configuration of an adapter; `task` is PEFT's task type."""
    return LoraConfig(task_type=task, **asdict(adapter))


def with_adapter(model: PreTrainedModel, adapter: Adapter | None, task: str | None = None) -> Any:
    """The model with a new trainable adapter; unchanged if `adapter` is None. Raises RunError as `refuse_unmatched`."""
    refuse_unmatched(model, adapter)
    return model if adapter is None else fuse_adapters(get_peft_model(model, lora_config(adapter, task)))


def with_saved_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The model with an adapter that a stage saved. Raises RunError if it does not load or does not fit."""
    refuse_changed(folder)
    try:
        refuse_pickled(folder)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # an error below
            loaded: PeftModel = PeftModel.from_pretrained(model, str(folder))
        refuse_misfit(loaded, folder)
    except UNLOADABLE as error:
        raise RunError(f"{folder}: its adapter does not load: {reason(error)}") from error
    fused: PeftModel = fuse_adapters(loaded)
    return fused


def base_weights(model: Any) -> dict[str, Tensor]:
    """The weights of a plain or PEFT model without its adapters, by the names that they have in the plain model."""
    inner = inner_of(model)
    added: list[str] = []
    for name, module in inner.named_modules():
        if isinstance(module, BaseTunerLayer):
            added += [f"{name}.{own}." for own in (*module.adapter_layer_names, *module.other_param_names)]
        elif isinstance(module, AuxiliaryTrainingWrapper):
            added += [f"{name}.{own}." for own in module.adapter_layer_names]
    kept = {name: each for name, each in inner.state_dict().items() if not name.startswith(tuple(added))}
    return {name.replace(".base_layer.", ".").replace(".original_module.", "."): each for name, each in kept.items()}


def device() -> torch.device:
    """The device of models: the GPU if there is one, in several processes that of this one."""
    if processes.launched() > 1 and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _load(cls: Any, base: Base) -> PreTrainedModel:
    if os.path.isdir(base.path):
        refuse_changed(Path(base.path))
    options: dict[str, Any] = {"trust_remote_code": base.trust_remote_code, "dtype": _dtype(base)}
    options["use_safetensors"] = True  # a pickle can run code
    if base.quantization or device().type == "cuda":  # shard by shard to its place, not through the host's memory
        options["device_map"] = {"": device()}
    if base.quantization:
        options["quantization_config"] = _quantization(base.quantization)
    loud = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report of missing weights becomes an error below
    try:
        if cls is AutoModelForCausalLM:
            refuse_encoder(base.path, load_config(base))
        _refuse_quantized(base)
        with loading(base.path):
            model, report = cls.from_pretrained(base.path, **options, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        why = PICKLES if _is_pickled(Path(base.path)) else reason(error)
        raise RunError(f"base {base.path}: does not load: {why}") from error
    finally:
        transformers_logging.set_verbosity(loud)
    if missing := sorted(key for key in report["missing_keys"] if not key.startswith(UNUSED)):
        raise RunError(f"base {base.path}: lacks weights, which would start at random: {', '.join(missing[:3])}")
    if heads := sorted(key for key in report["unexpected_keys"] if key.startswith(HEADS)):
        logger.warning("base %s: is a classifier or a reward model, whose head (%s) is dropped", base.path, heads[0])
    for name, weights in model.named_parameters():
        if weights.is_floating_point() and not weights.sum(dtype=torch.float32).isfinite():
            raise RunError(f"base {base.path}: its weights {name} hold NaN or infinite numbers: they are damaged")
    if base.quantization:
        if not _is_quantized(model):
            raise RunError(f"base {base.path}: has no layer that could be in {base.quantization}")
        return with_half_paths(counted(without_repacking(model).requires_grad_(False)))
    return with_fast_paths(counted(model.to(device())))


def _refuse_quantized(base: Base) -> None:
    """Raises RunError where its weights are stored quantized already: transformers would keep them as they are."""
    if base.quantization is None:
        return
    config = load_config(base)
    if own := getattr(config, "quantization_config", None):
        how = own.get("quant_method", "quantized") if isinstance(own, dict) else own
        raise RunError(f"base {base.path}: is stored quantized ({how}), so leave `quantization` out")


def _is_quantized(model: PreTrainedModel) -> bool:
    from bitsandbytes.nn import Int8Params, Params4bit  # type: ignore[attr-defined]

    return any(isinstance(weights, Int8Params | Params4bit) for weights in model.parameters())


def _is_pickled(folder: Path) -> bool:
    return any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("model*.safetensors"))


def without_repacking(model: PreTrainedModel) -> PreTrainedModel:
    """The model, without the repacking that bitsandbytes does in evaluation on a CPU that computes in bfloat16.

    It would never undo it, and later training would silently pass no gradient through the 4-bit weights.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _dtype(base: Base) -> torch.dtype:
    """Half precision for frozen weights where the device computes in it; weights that are trained are float32.

    So are embeddings and head of a quantized base: in float32 they, and with them all activations, would take more
    than NF4 saves of a small model. Norms compute in float32 whatever their weights are in.
    """
    return (base.adapter is not None and half_precision()) or torch.float32


def _quantization(name: str) -> BitsAndBytesConfig:
    if known_quantization(name) == INT8:
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_no_cast)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=NF4,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=half_precision() or torch.float32,
    )


def _is_no_cast(record: logging.LogRecord) -> bool:
    """False for the line that bitsandbytes logs at every int8 product whose input is not float16."""
    return not str(record.msg).startswith("MatMul8bitLt: inputs will be cast")


def reason(error: Exception) -> str:
    """Why something does not load, in one line; torch has the name of a tensor of another size in its second."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    sizes = [line for line in lines if line.startswith("size mismatch")]
    return (sizes or lines)[0]
