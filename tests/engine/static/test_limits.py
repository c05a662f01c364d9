"""What the loop over a static cache does not do is transformers', memory that runs out gives the same responses."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from rlhf_plugins.contract.run import Base
from rlhf_plugins.engine import pretending, set_engine, token_budget
from rlhf_plugins.engine.decoding import Loop, own_decoding_loop
from rlhf_plugins.engine.sampling import Decoding, sample
from rlhf_plugins.engine.static import filling, graph
from rlhf_plugins.engine.static import loop as static_loop
from rlhf_plugins.engine.static.cache import PromptLayer
from rlhf_plugins.engine.static.filling import compute
from rlhf_plugins.engine.static.sizes import slots_for
from rlhf_plugins.engine.static.slots import Slots
from rlhf_plugins.engine.token_budget import room as with_room
from rlhf_plugins.engine.weights.loading import load_causal, load_tokenizer
from rlhf_plugins.testing import tiny_base

from ..conftest import PAD
from .conftest import IDS, config, greedy, over_slots, plainly, sampled

Causal = Callable[..., Any]


class Same(LogitsProcessor):
    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores


class Never(StoppingCriteria):
    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        return torch.zeros(len(input_ids), dtype=torch.bool)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if "because" in each.getMessage()]


@pytest.mark.parametrize(
    ("architecture", "options", "reason"),
    [
        ("gemma2", {}, "its attention is eager"),
        ("bloom", {}, "its attention is eager"),
        ("llama", {"repetition_penalty": 1.5}, "it was asked for repetition_penalty"),
        ("llama", {"min_new_tokens": 4}, "it was asked for min_new_tokens"),
    ],
)
def test_what_it_does_not_do_is_transformers(
    causal: Causal, caplog: pytest.LogCaptureFixture, architecture: str, options: dict[str, Any], reason: str
) -> None:
    model = causal(architecture)
    asked = greedy(**options)
    for _ in range(2):
        assert torch.equal(over_slots(model, asked), plainly(model, asked))
    assert len(said(caplog)) == 1
    assert reason in said(caplog)[0]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"logits_processor": LogitsProcessorList([Same()])}, "it was asked for Same"),
        ({"stopping_criteria": StoppingCriteriaList([Never()])}, "stops at more than ends and a length"),
        ({"position_ids": torch.arange(4).expand(6, -1)}, "positions are not counted"),
        ({"use_cache": False}, "keeps no cache"),
    ],
)
def test_what_a_call_adds_is_transformers(
    causal: Causal, caplog: pytest.LogCaptureFixture, given: dict[str, Any], reason: str
) -> None:
    model, asked = causal(), greedy()
    inputs = {"input_ids": IDS, "attention_mask": (IDS != PAD).long(), **given}
    with torch.no_grad():
        expected = model.generate(**inputs, generation_config=asked)
        with pretending("cuda"), own_decoding_loop(model):
            assert torch.equal(model.generate(**inputs, generation_config=asked), expected)
    assert reason in said(caplog)[0]


def test_hooks_and_dropout_are_transformers(causal: Causal, caplog: pytest.LogCaptureFixture) -> None:
    model = causal()
    hook = model.model.layers[0].register_forward_hook(lambda *_: None)
    over_slots(model, greedy())
    hook.remove()
    model.add_module("dropping", nn.Dropout(0.5).train())
    over_slots(model, greedy())
    assert ["hooks see its layers" in said(caplog)[0], "dropout is on" in said(caplog)[1]] == [True, True]
    del model.dropping
    over_slots(model, greedy())
    assert len(said(caplog)) == 2


def test_beams_and_the_plain_engine_are_transformers(causal: Causal, caplog: pytest.LogCaptureFixture) -> None:
    model = causal()
    assert torch.equal(over_slots(model, greedy(num_beams=3)), plainly(model, greedy(num_beams=3)))
    with set_engine("plain"), pretending("cuda"):
        assert Loop().options(model) == {}
    assert not said(caplog)


def test_a_prompt_is_computed_once_for_all_its_responses(causal: Causal) -> None:
    model = causal()
    over_slots(model, greedy())  # the trial
    with pytest.MonkeyPatch.context() as patch:
        made: list[list[int]] = []

        def noted(given: Any, prompts: Any, cache: Any) -> Any:
            made.append(sorted(map(len, prompts)) if isinstance(cache.layers[0], PromptLayer) else [])
            return compute(given, prompts, cache)

        patch.setattr(filling, "compute", noted)
        patch.setattr(Loop.__init__, "__defaults__", (3,))
        over_slots(model, greedy(), IDS[[0, 5, 1, 4, 4, 1, 5, 0, 2]])
    assert sorted(sum(made, [])) == [1, 2, 3]  # all but the last token of three prompts


def full(slots: int) -> Callable[..., Any]:
    """Memory does not hold so many slots, at the fifth step."""
    step, calls = Slots.step, count()

    def limited(self: Slots) -> Any:
        if self.count >= slots and self.capacity > 32 and next(calls) % 5 == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self)

    return limited


def test_out_of_memory_gives_the_same_responses_of_fewer_slots(
    causal: Causal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, ids = causal(), IDS.repeat(3, 1)
    graph._EAGER.add(graph.trunk_of(model))
    expected = over_slots(model, sampled(), ids)
    monkeypatch.setattr(Slots, "step", full(8))
    assert torch.equal(over_slots(model, sampled(), ids), expected)
    assert token_budget.cached_at_once(model) == 4 * 128
    assert [f"generated again for {rows} rows at a time" in caplog.text for rows in (16, 8, 4, 2)] == [True] * 3 + [
        False
    ]


def test_one_row_that_does_not_fit_is_the_callers(causal: Causal, monkeypatch: pytest.MonkeyPatch) -> None:
    model = causal()
    graph._EAGER.add(graph.trunk_of(model))
    monkeypatch.setattr(Slots, "step", full(1))
    monkeypatch.setattr(static_loop, "obstacle_of", lambda _: None)
    with pytest.raises(torch.OutOfMemoryError):
        over_slots(model, greedy(), IDS)


def test_the_cache_is_free_after_the_block(causal: Causal) -> None:
    model = causal()
    with pretending("cuda"), own_decoding_loop(model) as loop:
        plainly(model, greedy())
        held = weakref.ref(loop.over_slots._filler._slots.cache.layers[0].keys)  # type: ignore[union-attr]
        plainly(model, greedy())
        assert held() is loop.over_slots._filler._slots.cache.layers[0].keys  # type: ignore[union-attr]
    del loop
    gc.collect()
    assert held() is None


@pytest.mark.parametrize(
    ("rows", "capacity", "limit", "expected"),
    [
        (1, 128, None, 1),
        (5, 128, None, 8),
        (64, 128, None, 64),
        (64, 256, 16_384, 64),
        (65, 256, 16_384, 64),
        (9, 512, 300, 1),
    ],
)
def test_slots_are_a_power_of_two_or_what_there_is_room_for(
    rows: int, capacity: int, limit: int | None, expected: int
) -> None:
    assert slots_for(rows, capacity, limit) == expected


def test_sampling_asks_for_all_rows_in_one_call_and_keeps_few_at_once(tmp_path: Any) -> None:
    base = tiny_base(tmp_path)
    model, tokenizer = load_causal(Base(base.path)).eval(), load_tokenizer(base)
    counts: list[int] = []
    init = Slots.__init__

    def noted(self: Slots, given: Any, like: Any, slots: int, *more: Any) -> None:
        counts.append(slots)
        init(self, given, like, slots, *more)

    with pytest.MonkeyPatch.context() as patch, pretending("cuda"), with_room(None, cache=4 * 128):
        patch.setattr(Slots, "__init__", noted)
        found = sample(model, tokenizer, ["a b", "c"], 10, Decoding(6, seed=3))
    assert counts == [4, 4]  # of the trial, and of all rows
    with pretending("cuda"):
        assert sample(model, tokenizer, ["a b", "c"], 10, Decoding(6, seed=3)) == found
        assert sample(model, tokenizer, ["a b", "c"], 10, Decoding(6, seed=4)) != found


def test_a_repetition_penalty_is_computed_by_another_loop(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    base = tiny_base(tmp_path)
    model, tokenizer = load_causal(Base(base.path)).eval(), load_tokenizer(base)
    asked = Decoding(6, temperature=0.0, repetition_penalty=3.0)
    expected = sample(model, tokenizer, ["a b", "c"], 2, asked).response_ids
    with pretending("cuda"):
        assert sample(model, tokenizer, ["a b", "c"], 2, asked).response_ids == expected
        assert not Loop().refills(model, config(repetition_penalty=3.0))
    assert "generates by transformers' loop, because it was asked for repetition_penalty" in caplog.text


def test_a_rollouts_options_are_supported(causal: Causal) -> None:
    """As TRL writes them for GRPO."""
    asked = config(do_sample=True, temperature=0.9, top_p=1.0, top_k=0, min_p=None, repetition_penalty=1.0)
    with pretending("cuda"):
        assert Loop().refills(causal(), asked)
        assert not Loop().refills(causal("gemma2"), asked)
    assert not Loop().refills(causal(), asked)
