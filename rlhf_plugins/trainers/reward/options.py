"""The arguments of RewardTrainer that TRL's lacks, and which of both are at odds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rlhf_plugins.contract.interfaces import Pooling, RewardHead, RewardLoss, Sampler
from rlhf_plugins.errors import RunError
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.trainers.constructor import refuse_others
from rlhf_plugins.trainers.given_rows import Rows, columns_read


@dataclass(frozen=True)
class RewardOptions:
    """The arguments that TRL's constructor lacks; a component is made with `component(kind, name, ...)`."""

    loss: RewardLoss | None = None  # None is TRL's: Bradley-Terry, less the margin where a row has one
    head: RewardHead | None = None  # takes the place of the classifier's score
    pooling: Pooling | None = None  # None reads the last token
    sampler: Sampler | None = None  # draws the batches; None shuffles as transformers does
    tokens_per_batch: int | None = None  # most tokens in memory at once, padding included
    head_learning_rate: float | None = None  # rate of head and pooling; None is the trainer's
    features: Tensor | None = None  # (responses, width) in the rows' order, of a frozen trunk


KINDS: dict[str, type] = {"loss": RewardLoss, "head": RewardHead, "pooling": Pooling, "sampler": Sampler}


def read_by(own: RewardOptions, model: Any) -> Rows:
    """What a training with these options reads of its rows."""
    ours = ("weight", "probability") if own.loss is not None else ()
    difficulty = ("difficulty",) if own.sampler is not None else ()
    pairs = [(f"chosen{end}", f"rejected{end}") for end in ("", "_ids", "_input_ids")]
    features = columns_read(own.loss, own.head, model)
    return Rows(numbers=("margin", *ours, *difficulty), features=features, needs=(*pairs, ("branch_ids",)))


def refuse_at_odds(theirs: Mapping[str, Any], own: RewardOptions) -> None:
    """Raises RunError for an argument of another class than it takes, or that would silently have no effect."""
    refuse_others(own, KINDS)
    for fault in (*_of_model(theirs, own), *_of_optimizer(theirs, own), *_of_args(theirs.get("args"), own)):
        raise RunError(fault)


def _of_model(theirs: Mapping[str, Any], own: RewardOptions) -> Iterator[str]:
    if isinstance(theirs.get("model"), RewardModel):
        given = {"head": own.head, "pooling": own.pooling, "peft_config": theirs.get("peft_config")}
        yield from (f"{k}: a RewardModel has trunk, pooling and head already" for k, v in given.items() if v)
    elif own.features is not None:
        yield "features are those of a RewardModel whose trunk is frozen"


def _of_optimizer(theirs: Mapping[str, Any], own: RewardOptions) -> Iterator[str]:
    if theirs.get("optimizers", (None, None))[0] is None:
        return
    builds = own.loss is not None and own.loss.builds
    given = {"head": own.head, "pooling": own.pooling, "head_learning_rate": own.head_learning_rate, "loss": builds}
    what = "the optimizer in `optimizers` was made without its weights; use optimizer_cls_and_kwargs"
    yield from (f"{name}: {what}" for name, value in given.items() if value)


def _of_args(args: Any, own: RewardOptions) -> Iterator[str]:
    if args is not None and (share := args.label_smoothing_factor):
        instead = f"loss=component('reward_loss', 'label_smoothed', epsilon={share})"
        yield f"label_smoothing_factor: TRL's RewardTrainer ignores it; write {instead}"
    if args is not None and own.sampler is not None and args.train_sampling_strategy != "random":
        yield "train_sampling_strategy: the sampler draws the batches"
    if args is not None and own.sampler is not None and args.dataloader_drop_last:
        yield "dataloader_drop_last: the sampler draws every row of an epoch"
