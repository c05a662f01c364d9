"""The memory of each of several cards, and what they send each other in a step, from the forecast of one.

Strategies by what each card keeps a part of (Rajbhandari et al. 2020, ZeRO, section 5; fsdp is zero3 of torch):

    ddp      nothing; the gradients are copied once more, into the buckets that are averaged
    zero2    gradients and the optimizer's state
    zero3    these and all weights; the embeddings and two layers are whole at once, the one that computes and the next

Models beside the trained one are whole, and so is all that a stage computes outside its training steps: it gathers the
weights for that (docs/scaling.md).

What a card sends (section 7), with N cards and rings: an all-gather or a reduce-scatter of S bytes is (N - 1) / N S,
and an all-reduce both. Weights count in the type that they are held in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rlhf_plugins.errors import RunError, nearest

if TYPE_CHECKING:
    from rlhf_plugins.forecast.forecast import Forecast
    from rlhf_plugins.recipe.assemble import Assembled

Bytes = Mapping[str, int]
GRADIENTS, OPTIMIZER, ADAPTERS, WEIGHTS = "gradients", "optimizer", "adapters", "weights "
BUCKETS, WHOLE, GATHERED, BESIDE = "buckets of DDP", "whole layers", "gathered weights", "models beside"
STRATEGIES = ("ddp", "fsdp", "zero2", "zero3")
ALIAS = {"fsdp": "zero3"}
TRAIN = "train"  # the phase of training steps
AT_ONCE = 2  # layers that are whole


@dataclass(frozen=True)
class Cards:
    """Several cards that train one model.

    Args:
        count: the number of cards.
        strategy: one of `STRATEGIES`.

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
        layers: the layers of the decoder.
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
        rows: the rows of all cards, in the batch that the step learns from.
    """

    sent_bytes: int
    rows: int


def per_card(one: Bytes, cards: Cards, shape: Shape, beside: float = 0.0, gathered: bool = False) -> dict[str, int]:
    """Bytes by consumer on each card, of a phase that takes `one` where there is a single card.

    Args:
        one: by consumer.
        cards: the cards that train.
        shape: the shape of the model.
        beside: the share of the weights that are of models beside the trained one.
        gathered: whether the phase computes with whole weights, beside the card's part of them.
    """
    if cards.count == 1:
        return dict(one)
    if cards.shards == "ddp":
        return {**one, **({BUCKETS: one[GRADIENTS]} if one.get(GRADIENTS) else {})}
    used, parts, whole = dict(one), {GRADIENTS, OPTIMIZER}, {}
    if cards.shards == "zero3":
        trained = {name: round(size * (1 - beside)) for name, size in one.items() if name.startswith(WEIGHTS)}
        own = sum(trained.values())
        root = min(own, shape.embeddings * shape.itemsize)
        some = root + AT_ONCE * round((own - root) / shape.layers)
        whole = {GATHERED: own + one.get(ADAPTERS, 0)} if gathered else {WHOLE: some}
        whole |= {BESIDE: _weights(one) - own} if beside else {}
        used |= trained
        parts |= {ADAPTERS, *trained}
    return {name: -(-size // cards.count) if name in parts else size for name, size in used.items()} | whole


def _weights(one: Bytes) -> int:
    return sum(size for name, size in one.items() if name.startswith(WEIGHTS))


def sent(one: Bytes, cards: Cards, passes: int, beside: float = 0.0) -> int:
    """Bytes that a card sends in an optimizer step.

    Args:
        one: by consumer in a training step on a single card, whose gradients are of the trained weights.
        cards: the cards that train.
        passes: forward and backward passes of the step: accumulated batches.
        beside: as in `per_card`.
    """
    trained = one.get(GRADIENTS, 0)
    share = (cards.count - 1) / cards.count
    if cards.shards == "ddp":  # once, after the last pass
        return round(2 * share * trained)
    if cards.shards == "zero2":  # gradients after each pass, then the weights that were stepped
        return round(share * trained * (passes + 1))
    weights = round(_weights(one) * (1 - beside)) + one.get(ADAPTERS, 0)
    return round(share * passes * (2 * weights + trained))  # weights for each forward and each backward pass


def spread(found: Forecast, assembled: Assembled, cards: Cards) -> tuple[Forecast, dict[str, Traffic]]:
    """The forecast of each card of several, and what each sends in a step of each stage that trains."""
    from rlhf_plugins.forecast.forecast import dtype_of
    from rlhf_plugins.forecast.shapes import configuration

    config = configuration(assembled.base)
    embeddings = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    shape = Shape(config.num_hidden_layers, embeddings, dtype_of(assembled.base, found.card).itemsize)

    each, traffic = [], {}
    for one, stage in zip(found.stages, assembled.stages, strict=True):
        workload = stage.workload(assembled.base.adapter)
        if workload is None or stage.trainer is None:  # it computes on whole copies
            each.append(one)
        elif one.phases and (why := _refused(stage, assembled.base.quantization is not None, cards)):
            each.append(replace(one, phases={}, unknown=f"a run refuses {why}"))
        else:
            beside = workload.models / (workload.models + 1)
            used = {name: per_card(size, cards, shape, beside, name != TRAIN) for name, size in one.phases.items()}
            each.append(replace(one, phases=used))
            if TRAIN in one.phases:
                traffic[one.name] = _traffic(one.phases[TRAIN], stage, cards, beside)
    return replace(found, stages=each), traffic


def _refused(stage: Any, quantized: bool, cards: Cards) -> str:
    """What a run in several processes refuses of a stage that trains; empty where it runs."""
    if cards.count == 1 or cards.shards == "ddp":
        return ""
    can = {"fsdp": stage.shards, "zero2": stage.zero, "zero3": stage.shards and stage.zero}
    if not can[cards.strategy]:
        return f"this stage under {cards.strategy}"
    return f"a quantized base under {cards.strategy}" if quantized else ""


def _traffic(train: Bytes, stage: Any, cards: Cards, beside: float) -> Traffic:
    passes = int(stage.setting("gradient_accumulation_steps"))
    rows = int(stage.setting("per_device_train_batch_size")) * passes * cards.count
    return Traffic(sent(train, cards, passes, beside), rows)
