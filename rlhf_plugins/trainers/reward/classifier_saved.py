"""Writes a classifier that was trained in a script as a stage writes a reward model."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file

from rlhf_plugins.contract.interfaces import Pooling, RewardHead
from rlhf_plugins.contract.run import Adapter
from rlhf_plugins.engine.backbone import SAVED, adapter_weights
from rlhf_plugins.engine.forward import inner_of, trunk_of
from rlhf_plugins.engine.weights.matching import ADAPTER_WEIGHTS, SETS
from rlhf_plugins.errors import RunError
from rlhf_plugins.reward_models.reward_model import SAVED as IN_THE_FOLDER
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.trainers.reward.classifier import HEADS


def save_as_ours(scorer: RewardModel, parts: tuple[Pooling | None, RewardHead | None], folder: Path) -> None:
    """Writes decoder or adapter, pooling, head and description.

    Args:
        scorer: a classifier as the engine scores with it.
        parts: pooling and head that a script asked for; None is the classifier's own.
        folder: made if missing.

    Raises:
        RunError: its base is quantized otherwise than a recipe's, or its adapter is not LoRA.
        PluginError: no plugin registers the pooling or the head.
    """
    from rlhf_plugins.recipe.assemble import spec
    from rlhf_plugins.recipe.public import component

    model, (pooling, head) = scorer.trunk, parts
    described = {"pooling": spec(pooling or component("pooling", "last_token"))}
    described["head"] = spec(head or component("reward_head", "scalar"))
    base = {"path": model.config._name_or_path, "quantization": _quantization(model.config), "adapter": _adapter(model)}
    with torch.random.fork_rng():  # a new head starts at random
        found = RewardModel(model, component("pooling", "last_token"), head or component("reward_head", "scalar"))
    found.pooling = scorer.pooling
    if head is not None:
        found.head = scorer.head
    else:
        found.head.load_state_dict({"weight": _trained(inner_of(model).score, model).weight})
    folder.mkdir(parents=True, exist_ok=True)
    if inner_of(model) is model:
        trunk_of(model).save_pretrained(folder)
    else:
        _save_adapter(model, folder)
    found.save_own(folder, {**described, "base": base, "trunk": IN_THE_FOLDER})


def _trained(module: Any, model: Any) -> Any:
    """A module that PEFT trains whole is a copy of the model's."""
    return module.modules_to_save[model.active_adapter] if hasattr(module, "modules_to_save") else module


def _save_adapter(model: Any, folder: Path) -> None:
    """The adapter of the decoder alone, under the names that it has where it is added to the decoder itself."""
    name = model.active_adapter
    prefix = f"{SAVED}{_inside(model)}."
    weights = {
        SAVED + key.removeprefix(prefix): value.detach().cpu().contiguous()
        for key, value in adapter_weights(model, name).items()
        if key.startswith(prefix)
    }
    save_file(weights, folder / ADAPTER_WEIGHTS)
    config = copy(model.peft_config[name])
    config.task_type, config.modules_to_save = "FEATURE_EXTRACTION", None
    for option in SETS:
        setattr(config, option, _of_trunk(getattr(config, option), f"{_inside(model)}."))
    config.save_pretrained(str(folder))


def _inside(model: Any) -> str:
    """The name of the decoder in its classifier."""
    return next(path for path, module in inner_of(model).named_modules() if module is trunk_of(model))


def _of_trunk(names: Any, prefix: str) -> Any:
    """The names of the layers with an adapter as the decoder alone has them; a pattern stays as it is."""
    return names if names is None or isinstance(names, str) else {name.removeprefix(prefix) for name in names} - HEADS


def _adapter(model: Any) -> Mapping[str, Any] | None:
    """The adapter in the words of a recipe; None without one."""
    if inner_of(model) is model:
        return None
    config = model.peft_config[model.active_adapter]
    if not isinstance(config, LoraConfig):
        raise RunError(f"a reward model with an adapter of the type {config.peft_type} opens in PEFT alone")
    kept = {each.name for each in fields(Adapter)} - {"init_lora_weights"}  # its beginning is past
    values = {name: getattr(config, name) for name in kept}
    sets = {option: _of_trunk(getattr(config, option), f"{_inside(model)}.") for option in SETS}
    return {**values, **{option: sorted(names) if isinstance(names, set) else names for option, names in sets.items()}}


def _quantization(config: Any) -> str | None:
    """The base's quantization in the words of a recipe; None without one."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    if getattr(found, "load_in_8bit", False):
        return "int8"
    kind = getattr(found, "bnb_4bit_quant_type", None), getattr(found, "bnb_4bit_use_double_quant", None)
    if kind != ("nf4", True):
        raise RunError("a reward model opens on a base in int8, or in nf4 with bnb_4bit_use_double_quant=True")
    return "nf4"
