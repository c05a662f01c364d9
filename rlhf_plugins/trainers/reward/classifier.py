"""TRL's reward model, a sequence classifier with one label, as the engine scores with it.

The classifier stays whole and shares its weights: the engine calls its decoder and its score, which another head takes
the place of where a script asks for one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any

from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from rlhf_plugins.contract.interfaces import Pooling, RewardHead
from rlhf_plugins.engine.forward import inner_of, is_causal, trunk_of
from rlhf_plugins.engine.weights.loading import use_fast_paths
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.trainers.arguments import unusual_adapter, unusual_launch

logger = logging.getLogger(__name__)
HEADS = {"score", "classifier"}  # names of the head of a classifier in PEFT


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


def scored_by(model: Any, pooling: Pooling | None, head: RewardHead | None) -> RewardModel:
    """A classifier's decoder with its own score, or with a pooling and a head in its place, which join its weights."""
    from rlhf_plugins.recipe.public import component

    use_fast_paths(model)
    score = inner_of(model).score
    scorer = RewardModel(model, pooling or component("pooling", "last_token"), head or Score(score))
    if head is not None:
        scorer.head = install(model, "score", scorer.head)
    elif not any(weights.requires_grad for weights in score.parameters()):
        logger.warning("the classifier's score is not trained, and not saved with an adapter")
    if isinstance(scorer.pooling, nn.Module):
        scorer.pooling = install(model, "pooling", scorer.pooling)
    text = model.config.get_text_config()
    if head is not None or pooling is not None:
        logger.warning(
            "no classifier opens checkpoints with this pooling and head; save_reward_model writes one of ours"
        )
    elif text.pad_token_id == text.eos_token_id:
        logger.warning("padding is EOS: training scores the last token, a saved classifier one token before an EOS")
    return scorer


def install(model: Any, name: str, module: nn.Module) -> nn.Module:
    """Puts a module into a model, where PEFT saves it with its adapter. Returns what is trained: under PEFT a copy."""
    inner = inner_of(model)
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


def obstacle_of(trainer: Any, own_collator: bool) -> str | None:
    """The first thing about a trainer that the engine does not compute; None if there is none."""
    return next(_obstacles(trainer, own_collator), None)


def _obstacles(trainer: Any, own_collator: bool) -> Iterator[str]:
    model, args = trainer.model, trainer.args
    if own_collator:
        yield "data_collator="
    yield from unusual_launch(trainer)
    if args.pad_to_multiple_of is not None:
        yield f"pad_to_multiple_of={args.pad_to_multiple_of}"
    yield from unusual_adapter(model)
    inner = inner_of(model)
    if not isinstance(getattr(inner, "score", None), nn.Module) or trunk_of(model) is inner:
        yield f"{type(inner).__name__}, which is no decoder with a score"
    elif not is_causal(trunk_of(model)):
        yield f"the bidirectional attention of {type(inner).__name__}"
