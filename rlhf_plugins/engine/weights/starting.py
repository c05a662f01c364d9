"""The model that a stage trains, at the weights that it starts from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from torch import nn
from transformers import PreTrainedModel

from rlhf_plugins.contract.run import Weights
from rlhf_plugins.data.digests import refuse_changed
from rlhf_plugins.engine.backbone import POLICY, copy_adapter
from rlhf_plugins.engine.forward import trunk_of
from rlhf_plugins.engine.weights.end_tokens import with_ends
from rlhf_plugins.engine.weights.loading import (
    fuse_adapters,
    load_causal,
    load_trunk,
    lora_config,
    reason,
    with_adapter,
    with_saved_adapter,
)
from rlhf_plugins.engine.weights.matching import ADAPTER_WEIGHTS, SETS, UNLOADABLE, refuse_misfit, refuse_pickled
from rlhf_plugins.engine.weights.targets import empty_model
from rlhf_plugins.errors import RunError

CAUSAL, TRUNK = "CAUSAL_LM", "FEATURE_EXTRACTION"  # PEFT's task types


def load_start(weights: Weights) -> Any:
    """A language model to train: the base with a new or the saved adapter, or all weights with the adapter merged.

    Raises:
        RunError: the base or the adapter does not load, or they do not fit.
    """
    base = weights.base
    if weights.folder is None:
        return with_adapter(load_causal(base), base.adapter, CAUSAL)
    if base.adapter is None:
        return load_whole(weights)
    model = with_ends(load_causal(base), weights.folder)
    with torch.random.fork_rng():
        made: PeftModel = fuse_adapters(get_peft_model(model, config_of(weights), POLICY))
    copy_start(made, weights)
    return made


def load_trunk_start(weights: Weights) -> Any:
    """`load_start` without the head of the language model. Raises RunError as it does."""
    base = weights.base
    if weights.folder is None:
        return with_adapter(load_trunk(base), base.adapter, TRUNK)
    if base.adapter is None:
        return trunk_of(load_whole(weights))
    with torch.random.fork_rng():  # its weights are initialised at random before they are copied
        trunk, config = load_trunk(base), config_of(weights, TRUNK)
        made: PeftModel = fuse_adapters(get_peft_model(trunk, _within(trunk, config), POLICY))
    copy_start(made, weights)
    return made


def refuse_unfit(weights: Weights) -> None:
    """Raises RunError where a saved adapter is none of its base, by names and shapes alone; no weights are read."""
    folder, base = weights.folder, weights.base
    if folder is None or base.trust_remote_code or (model := empty_model(base.path)) is None:
        return
    with _loading(weights), torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refuse_pickled(folder)
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise ValueError(f"{ADAPTER_WEIGHTS} is missing")
        config = PeftConfig.from_pretrained(str(folder))
        refuse_misfit(get_peft_model(deepcopy(model), config), folder)


def load_whole(weights: Weights) -> PreTrainedModel:
    """A language model without an adapter; a saved one is merged in memory. Raises RunError as `load_start` does."""
    base = replace(weights.base, adapter=None)
    if weights.folder is None:
        return load_causal(base)
    if base.quantization:
        raise RunError(f"{weights.folder}: its adapter is on a quantized base, so all weights cannot be trained")
    adapted = with_saved_adapter(load_causal(base), weights.folder)
    untie(adapted)
    merged: PreTrainedModel = with_ends(adapted.merge_and_unload(), weights.folder)
    return merged.requires_grad_(True)


def untie(adapted: PeftModel) -> bool:
    """Gives the output layer weights of its own where they are the embeddings' and an adapter is on either.

    Merged into shared weights, it would change both. Returns whether it did.
    """
    model = adapted.get_base_model()
    outer, inner = (_plain(part) for part in (model.get_output_embeddings(), model.get_input_embeddings()))
    if outer is None or outer.weight is not inner.weight:
        return False
    tuned = (layer.get_base_layer() for layer in model.modules() if isinstance(layer, BaseTunerLayer))
    if not any(layer in (outer, inner) for layer in tuned):
        return False
    outer.weight = nn.Parameter(outer.weight.detach().clone(), requires_grad=False)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    return True


def _plain(module: Any) -> Any:
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def load_frozen(weights: Weights) -> Any:
    """A language model that is not trained further. Raises RunError as `load_start` does."""
    model = load_causal(weights.base)
    found = model if weights.folder is None else with_saved_adapter(model, weights.folder)
    return found.eval().requires_grad_(False)


def config_of(weights: Weights, task: str = CAUSAL) -> PeftConfig | None:
    """PEFT's configuration of the adapter to train: the saved one, or a new one; None where all weights are trained.

    `task` is PEFT's task type, whatever the adapter was trained for.
    """
    if weights.base.adapter is None:
        return None
    if weights.folder is None:
        return lora_config(weights.base.adapter, task)
    with _loading(weights):
        config = PeftConfig.from_pretrained(str(weights.folder))
    config.inference_mode, config.task_type = False, task
    return config


def _within(trunk: PreTrainedModel, config: Any) -> Any:
    """The configuration of an adapter that was trained below a head, with the names that modules have in the trunk."""
    if config.layers_to_transform is not None:  # PEFT finds the number of a layer only behind another name
        above = trunk.base_model_prefix
        config.target_modules = {
            name for name, _ in trunk.named_modules() if check_target_module_exists(config, f"{above}.{name}")
        }
        config.layers_to_transform = config.layers_pattern = None
        return config
    for option in SETS:
        names = getattr(config, option)
        if names is not None and not isinstance(names, str):
            setattr(config, option, {name.removeprefix(f"{trunk.base_model_prefix}.") for name in names})
    return config


def copy_start(model: PeftModel, weights: Weights) -> None:
    """Gives the policy's adapter the saved weights. Raises RunError where it has other modules or another rank."""
    assert weights.folder is not None
    refuse_changed(weights.folder)
    with _loading(weights):
        refuse_pickled(weights.folder)
        copy_adapter(model, POLICY, weights.folder)


@contextmanager
def _loading(weights: Weights) -> Iterator[None]:
    try:
        yield
    except UNLOADABLE as error:
        raise RunError(f"{weights.folder}: its adapter does not load: {reason(error)}") from error
