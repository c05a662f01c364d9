"""Memory of each of several cards, and what they send, worked by hand."""

from __future__ import annotations

import pytest

from rlhf_plugins import RunError
from rlhf_plugins.forecast.several import BUCKETS, WHOLE, Bytes, Cards, Shape, per_card, sent

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
