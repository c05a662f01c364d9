"""Memory of each of several cards, and what they send, worked by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_plugins import RunError
from rlhf_plugins.forecast.cards import card
from rlhf_plugins.forecast.forecast import forecast
from rlhf_plugins.forecast.several import (
    BESIDE,
    BUCKETS,
    GATHERED,
    STRATEGIES,
    WHOLE,
    Bytes,
    Cards,
    Shape,
    _refused,
    per_card,
    sent,
    spread,
)
from rlhf_plugins.recipe.assemble import Assembled
from rlhf_plugins.recipe.check import load_recipe

# 1000 trained weights in float32: 4 bytes each, as many of gradients, 8 of AdamW's two moments
FULL: Bytes = {"weights fp32": 4000, "gradients": 4000, "optimizer": 8000, "activations": 700}
# a frozen base of 1000 weights in bfloat16 with an adapter of 50
LORA: Bytes = {"weights bf16": 2000, "adapters": 200, "gradients": 200, "optimizer": 400, "activations": 700}
SHAPE = Shape(layers=8, embeddings=200, itemsize=4)


@pytest.mark.parametrize(
    ("strategy", "total"),
    [
        ("ddp", 4000 + 4000 + 8000 + 700 + 4000),  # and the buckets
        ("zero2", 4000 + 1000 + 2000 + 700),
        # a quarter of all, the embeddings of 800 bytes, and two of the eight layers of 3200 bytes
        ("zero3", 1000 + 1000 + 2000 + 700 + 800 + 800),
    ],
)
def test_bytes_on_each_of_four_cards(strategy: str, total: int) -> None:
    assert sum(per_card(FULL, Cards(4, strategy), SHAPE).values()) == total


def test_what_is_computed_outside_training_steps_takes_whole_weights_beside_the_part() -> None:
    rollout: Bytes = {"weights fp32": 8000, "adapters": 80, "optimizer": 8000, "activations": 700}
    # half of the weights are of a model beside: 4000 of its own are cut into four, and gathered with the adapter
    found = per_card(rollout, Cards(4, "fsdp"), SHAPE, beside=0.5, gathered=True)
    weights = {"weights fp32": 1000, "adapters": 20, GATHERED: 4080, BESIDE: 4000}
    assert found == {**weights, "optimizer": 2000, "activations": 700}
    training = per_card(rollout, Cards(4, "fsdp"), SHAPE, beside=0.5)
    assert {*training} - {*found} == {WHOLE}
    assert training[WHOLE] == 800 + 800  # of the 4000
    assert per_card(rollout, Cards(4, "zero2"), SHAPE, beside=0.5, gathered=True) == {**rollout, "optimizer": 2000}


def test_models_beside_are_not_sent() -> None:
    assert sent({**FULL, "weights fp32": 8000}, Cards(4, "zero3"), 1, beside=0.5) == sent(FULL, Cards(4, "zero3"), 1)


GRPO = {
    "stage": "online",
    "advantage": "grpo",
    "reward": {"use": "gold"},
    "trainer": {"max_completion_length": 4, "per_device_train_batch_size": 8},
}


def assembled(**more: Any) -> Assembled:
    stages = [GRPO, {"stage": "evaluate", "max_new_tokens": 4, "best_of": 1}]
    recipe = {"base": "sandbox", "adapter": None, "data": "sandbox", "output_dir": "out", "stages": stages}
    return load_recipe({**recipe, **more})


def test_a_stage_that_trains_is_cut_and_one_that_does_not_is_whole() -> None:
    """The reference of `online` is a whole model beside the policy."""
    recipe = assembled()
    one = forecast(recipe, None)
    found, traffic = spread(one, recipe, Cards(4, "fsdp"))
    assert found.stages[1] == one.stages[1]
    for phase, whole in (("train", WHOLE), ("generation", GATHERED)):
        alone, cut = one.stages[0].phases[phase], found.stages[0].phases[phase]
        own = alone["weights fp32"] // 2
        assert (cut["weights fp32"], cut[BESIDE]) == (own // 4, own)
        assert whole in cut
    assert cut[GATHERED] == own
    assert list(traffic) == ["online"]


def test_what_a_run_refuses_has_no_verdict() -> None:
    recipe = assembled(adapter={"r": 4}, quantization="nf4")
    found, traffic = spread(forecast(recipe, card("24GB")), recipe, Cards(2, "fsdp"))
    assert [one.verdict for one in found.stages] == ["a run refuses a quantized base under fsdp", "fits"]
    assert not traffic


@pytest.mark.parametrize(
    ("shards", "zero", "refused"),
    [
        (True, False, ["zero2", "zero3"]),
        (False, True, ["fsdp", "zero3"]),
        (False, False, ["fsdp", "zero2", "zero3"]),
        (True, True, []),
    ],
)
def test_what_a_stage_was_not_tried_with_is_refused(shards: bool, zero: bool, refused: list[str]) -> None:
    stage = SimpleNamespace(shards=shards, zero=zero)
    assert [strategy for strategy in STRATEGIES if _refused(stage, False, Cards(2, strategy))] == refused


@pytest.mark.parametrize(
    ("strategy", "passes", "bytes_sent"),
    [
        ("ddp", 1, 6000),  # 2 x 3/4 x 4000: an all-reduce is a reduce-scatter and an all-gather
        ("ddp", 5, 6000),  # once, after the last of the passes
        ("zero2", 1, 6000),  # 3/4 x 4000 of gradients, and as much of weights that were stepped
        ("zero2", 5, 18000),  # 3/4 x 4000 x (5 + 1)
        ("zero3", 1, 9000),  # 3/4 x (4000 forward + 4000 backward + 4000 of gradients): 1.5 times DDP
        ("fsdp", 2, 18000),
    ],
)
def test_bytes_that_each_of_four_cards_sends(strategy: str, passes: int, bytes_sent: int) -> None:
    assert sent(FULL, Cards(4, strategy), passes) == bytes_sent


def test_an_adapter_sends_its_own_gradients_alone_unless_the_base_is_sharded() -> None:
    assert sent(LORA, Cards(2), 1) == 200  # 2 x 1/2 x 200
    assert sent(LORA, Cards(2, "fsdp"), 1) == 2300  # 1/2 x (2 x 2200 + 200)


def test_one_card_keeps_and_sends_what_it_did() -> None:
    assert per_card(FULL, Cards(1), SHAPE) == FULL
    assert sent(FULL, Cards(1, "fsdp"), 1) == 0


def test_more_cards_never_take_more_of_each() -> None:
    for strategy in ("zero2", "zero3"):
        totals = [sum(per_card(LORA, Cards(count, strategy), SHAPE).values()) for count in (2, 4, 8, 64)]
        assert totals == sorted(totals, reverse=True)
    assert BUCKETS in per_card(LORA, Cards(2), SHAPE)
    assert WHOLE in per_card(LORA, Cards(2, "fsdp"), SHAPE)


def test_an_unknown_strategy_names_the_nearest() -> None:
    with pytest.raises(RunError, match=r"unknown 'zero33' \(did you mean zero3\?"):
        Cards(2, "zero33")
