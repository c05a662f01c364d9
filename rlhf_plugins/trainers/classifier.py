"""TRL's reward model, a sequence classifier with one label, as the engine scores with it. It knows no loss and no rows.

The classifier stays whole and shares its weights: the engine calls its decoder and its score, which another head takes
the place of where a script asks for one.
"""

from __future__ import annotations

import logging
from copy import copy
from dataclasses import dataclass
from typing import Any

from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from rlhf_plugins.contract.interfaces import Pooling, RewardHead
from rlhf_plugins.engine.cpu.linear_layer import fuse_lora
from rlhf_plugins.engine.forward import evaluating, is_causal, trunk_of
from rlhf_plugins.engine.loading import with_fast_paths
from rlhf_plugins.reward_models.reward_model import RewardModel

logger = logging.getLogger(__name__)
HEADS = {"score", "classifier"}  # names of the head of a classifier in PEFT
THEIRS_ALONE = ("torch_compile", "use_liger_kernel", "neftune_noise_alpha", "pad_to_multiple_of", "deepspeed", "fsdp")


@dataclass(frozen=True)
class Score(RewardHead):
    """The score that a classifier has already."""

    module: nn.Module

    def build(self, width: int) -> nn.Module:
        """A module from (batch, width) to (batch,)."""
        return _Score(self.module)


class _Score(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Tensor) -> Tensor:
        return self.module(features).squeeze(-1)


def whole(model: Any) -> Any:
    """The classifier with its adapters in place, of a plain or PEFT model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def scored_by(model: Any, pooling: Pooling | None, head: RewardHead | None) -> RewardModel:
    """A classifier's decoder with its own score, or with a pooling and a head in its place, which join its weights."""
    from rlhf_plugins.recipe.public import component

    score = sped_up(model).score
    scorer = RewardModel(model, pooling or component("pooling", "last_token"), head or Score(score))
    if head is not None:
        scorer.head = install(model, "score", scorer.head)
    elif not any(weights.requires_grad for weights in score.parameters()):
        logger.warning("the classifier's score is not trained, and not saved with an adapter")
    if isinstance(scorer.pooling, nn.Module):
        scorer.pooling = install(model, "pooling", scorer.pooling)
    text, asked = model.config.get_text_config(), head is not None or pooling is not None
    if text.pad_token_id == text.eos_token_id and not asked:
        logger.warning("padding is EOS: training scores the last token, a saved classifier one token before an EOS")
    return scorer


def sped_up(model: Any) -> Any:
    """The classifier, its decoder and adapters with the fast paths that agree with their own layers."""
    inner = whole(model)
    if getattr(inner.config, "quantization_config", None) is None:
        with evaluating(model):
            with_fast_paths(inner)
    fuse_lora(model)
    return inner


def install(model: Any, name: str, module: nn.Module) -> nn.Module:
    """Puts a module into a model, where PEFT saves it with its adapter. Returns what is trained: under PEFT a copy."""
    inner = whole(model)
    if inner is model:
        setattr(inner, name, module)
        return module
    setattr(inner, name, wrapper := ModulesToSaveWrapper(module, model.active_adapter))
    return wrapper.modules_to_save[model.active_adapter]


def saving_head(config: Any) -> Any:
    """The configuration of an adapter with the head among the modules that are trained whole and saved."""
    if config.task_type == "SEQ_CLS" or not hasattr(config, "modules_to_save"):
        return config  # PEFT adds the head itself, or has no way to
    saved = list(config.modules_to_save or ())
    if HEADS.isdisjoint(saved):
        logger.warning("modules_to_save: added score, or the adapter would be saved without its head")
        config = copy(config)
        config.modules_to_save = [*saved, "score"]
    return config


def obstacle_of(model: Any, args: Any, processes: int, own_collator: bool) -> str | None:
    """Why a training goes TRL's way; None where the engine computes it."""
    if own_collator:
        return "it was given a data_collator"
    if processes > 1:
        return "it runs in several processes"
    if asked := [name for name in THEIRS_ALONE if getattr(args, name)]:
        return f"{asked[0]} is set"
    if "inputs" in args.include_for_metrics or args.include_num_input_tokens_seen != "no":
        return "it counts or shows input_ids as TRL lays them out"
    if args.parallelism_config is not None or getattr(model, "_tp_size", None):
        return "the model is split over devices"
    if any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values()):
        return "the adapter learns a prompt"
    inner = whole(model)
    if not isinstance(getattr(inner, "score", None), nn.Module) or trunk_of(model) is inner:
        return f"{type(inner).__name__} is no decoder with a score"
    return None if is_causal(trunk_of(model)) else f"the attention of {type(inner).__name__} is bidirectional"
