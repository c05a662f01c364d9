"""TRL's reward model, a sequence classifier with one label, as the engine scores with it. It knows no loss and no rows.

The classifier stays whole and shares its weights: the engine calls its decoder and its score, which another head takes
the place of where a script asks for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rlhf_plugins.contract.interfaces import Pooling, RewardHead
from rlhf_plugins.engine.forward import is_causal, trunk_of
from rlhf_plugins.reward_models.reward_model import RewardModel

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

    inner = whole(model)
    scorer = RewardModel(model, pooling or component("pooling", "last_token"), head or Score(inner.score))
    if head is not None:
        inner.score = scorer.head
    if isinstance(scorer.pooling, nn.Module):
        inner.add_module("pooling", scorer.pooling)
    return scorer


def why_not(model: Any, args: Any, processes: int, own_collator: bool) -> str | None:
    """Why a training goes TRL's way; None where the engine computes it."""
    if own_collator:
        return "it was given a data_collator"
    if processes > 1:
        return "it runs in several processes"
    if asked := [name for name in THEIRS_ALONE if getattr(args, name)]:
        return f"{asked[0]} is set"
    if args.parallelism_config is not None or getattr(model, "_tp_size", None):
        return "the model is split over devices"
    if any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values()):
        return "the adapter learns a prompt"
    inner = whole(model)
    if not isinstance(getattr(inner, "score", None), nn.Module) or trunk_of(model) is inner:
        return f"{type(inner).__name__} is no decoder with a score"
    return None if is_causal(trunk_of(model)) else f"the attention of {type(inner).__name__} is bidirectional"
