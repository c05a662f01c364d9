"""The memory of each of several cards, and what they send each other in a step, from the forecast of one.

Strategies by what each card keeps a part of (Rajbhandari et al. 2020, ZeRO, section 5; fsdp is zero3 of torch):

    ddp      nothing; the gradients are copied once more, into the buckets that are averaged
    zero2    gradients and the optimizer's state
    zero3    these and all weights; the embeddings and two layers are whole at once, the one that computes and the next

What a card sends (section 7), with N cards and rings: an all-gather or a reduce-scatter of S bytes is (N - 1) / N S,
and an all-reduce both. Weights count in the type that they are held in. It knows bytes by consumer, no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rlhf_plugins.errors import RunError, nearest

if TYPE_CHECKING:
    from rlhf_plugins.forecast.forecast import Forecast, StageForecast
    from rlhf_plugins.recipe.assemble import Assembled

Bytes = Mapping[str, int]
GRADIENTS, OPTIMIZER, ADAPTERS, WEIGHTS = "gradients", "optimizer", "adapters", "weights "
BUCKETS, WHOLE = "buckets of DDP", "whole layers"
STRATEGIES = ("ddp", "fsdp", "zero2", "zero3")
ALIAS = {"fsdp": "zero3"}
AT_ONCE = 2  # layers that are whole


@dataclass(frozen=True)
class Cards:
    """Several cards that train one model.

    Args:
        count: of cards.
        strategy: of `STRATEGIES`.

    Raises:
        RunError: the strategy is unknown, or there is no card.
    """

    count: int
    strategy: str = "ddp"

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise RunError(f"--strategy: unknown {self.strategy!r} {nearest(self.strategy, STRATEGIES)}")
        if self.count < 1:
            raise RunError(f"--gpus: {self.count}; write 1 or more")

    @property
    def shards(self) -> str:
        """The strategy under ZeRO's name, or ddp."""
        return ALIAS.get(self.strategy, self.strategy)


@dataclass(frozen=True)
class Shape:
    """How the weights of a model are spread over its layers.

    Args:
        layers: of the decoder.
        embeddings: numbers of input and output embeddings, which are in no layer.
        itemsize: bytes of one of them.
    """

    layers: int
    embeddings: int
    itemsize: int


@dataclass(frozen=True)
class Traffic:
    """What a card sends in an optimizer step.

    Args:
        sent_bytes: by this card; it receives as much.
        rows: of all cards, in the batch that the step learns from.
    """

    sent_bytes: int
    rows: int


def per_card(one: Bytes, cards: Cards, shape: Shape) -> dict[str, int]:
    """Bytes by consumer on each card, of a phase that takes `one` where there is a single card."""
    if cards.count == 1:
        return dict(one)
    if cards.shards == "ddp":
        return {**one, **({BUCKETS: one[GRADIENTS]} if one.get(GRADIENTS) else {})}
    sharded = {GRADIENTS, OPTIMIZER}
    whole: dict[str, int] = {}
    if cards.shards == "zero3":
        weights = sum(size for name, size in one.items() if name.startswith(WEIGHTS))
        sharded |= {ADAPTERS, *(name for name in one if name.startswith(WEIGHTS))}
        root = min(weights, shape.embeddings * shape.itemsize)
        whole = {WHOLE: root + AT_ONCE * round((weights - root) / shape.layers)}
    return {name: -(-size // cards.count) if name in sharded else size for name, size in one.items()} | whole


def sent(one: Bytes, cards: Cards, passes: int) -> int:
    """Bytes that a card sends in an optimizer step.

    Args:
        one: by consumer in a training step on a single card, whose gradients are of the trained weights.
        cards: that train.
        passes: forward and backward passes of the step: accumulated batches.
    """
    trained = one.get(GRADIENTS, 0)
    share = (cards.count - 1) / cards.count
    if cards.shards == "ddp":  # once, after the last pass
        return round(2 * share * trained)
    if cards.shards == "zero2":  # gradients after each pass, then the weights that were stepped
        return round(share * trained * (passes + 1))
    weights = sum(size for name, size in one.items() if name.startswith(WEIGHTS)) + one.get(ADAPTERS, 0)
    return round(share * passes * (2 * weights + trained))  # weights for each forward and each backward pass


def spread(found: Forecast, assembled: Assembled, cards: Cards) -> tuple[Forecast, dict[str, Traffic]]:
    """The forecast of each card of several, and what each sends in a step of each stage that trains."""
    from rlhf_plugins.forecast.forecast import dtype_of
    from rlhf_plugins.forecast.shapes import configuration

    config = configuration(assembled.base)
    embeddings = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    shape = Shape(config.num_hidden_layers, embeddings, dtype_of(assembled.base, found.card).itemsize)

    def spread_out(one: StageForecast) -> StageForecast:
        return replace(one, phases={phase: per_card(used, cards, shape) for phase, used in one.phases.items()})

    stages = dict(zip((stage.name for stage in assembled.stages), assembled.stages, strict=True))
    traffic = {one.name: _traffic(one, stages[one.name], cards) for one in found.stages if "train" in one.phases}
    return replace(found, stages=[spread_out(one) for one in found.stages]), traffic


def _traffic(one: StageForecast, stage: Any, cards: Cards) -> Traffic:
    passes = int(stage.setting("gradient_accumulation_steps"))
    rows = int(stage.setting("per_device_train_batch_size")) * passes * cards.count
    return Traffic(sent(one.phases["train"], cards, passes), rows)
