"""A step that is recorded computes the same; where it cannot be recorded, or is not the same, it is computed as it is.

The graph is the tests' own: it plays operations again on the same memory, as a CUDA graph does on a GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList

from rlhf_plugins.engine import pretending
from rlhf_plugins.engine.cost import counted, counting
from rlhf_plugins.engine.static import graph
from rlhf_plugins.engine.static.drawing import Drawing
from rlhf_plugins.engine.static.filling import Filler, our_attention, shapes
from rlhf_plugins.engine.static.slots import Slots

from ..conftest import EOS
from .conftest import IDS, greedy, over_slots, plainly, record_on_a_cpu, sampled

Causal = Callable[..., Any]
PROMPTS = [(7, 8), (5, 6, 7, 8), (9, 4, 3)]


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records on the CPU; a number for each step that is played again."""
    found: list[int] = []

    def record(step: Any, device: torch.device) -> Callable[[], None]:
        replay = record_on_a_cpu(step, device)

        def noted() -> None:
            found.append(1)
            replay()

        return noted

    monkeypatch.setattr(graph, "record", record)
    return found


@pytest.mark.parametrize("asked", [greedy(), sampled(), sampled(temperature=0.7, top_p=0.9)])
@pytest.mark.parametrize(
    ("architecture", "sizes"),
    [("qwen3", {}), ("gpt2", {}), ("gemma3_text", {"sliding_window": 5, "num_hidden_layers": 6})],
)
def test_a_graph_gives_the_same_tokens(
    causal: Causal, replays: list[int], architecture: str, sizes: dict[str, int], asked: Any
) -> None:
    model, ids = causal(architecture, **sizes), IDS.repeat(3, 1)
    found = over_slots(model, asked, ids)
    assert len(replays) >= 16  # of the trial, and of the generation
    graph._EAGER.add(graph.trunk_of(model))
    count = len(replays)
    assert torch.equal(over_slots(model, asked, ids), found)
    assert len(replays) == count
    if not asked.do_sample:
        assert torch.equal(found, plainly(model, asked, ids))


def failing(*_: Any) -> Any:
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


def wrong(step: Callable[[], Tensor], device: torch.device) -> Callable[[], None]:
    """Plays a step that was recorded at other keys."""
    replay, slots = record_on_a_cpu(step, device), step.__self__  # type: ignore[attr-defined]

    def off() -> None:
        replay()
        slots.cache.layers[0].keys[:, :, 0] += 1e-3

    return off


@pytest.mark.parametrize(
    ("record", "reason"),
    [(failing, "RuntimeError: operation not permitted when stream is capturing"), (wrong, "are others than without")],
)
def test_without_a_graph_the_step_is_computed_as_it_is(
    causal: Causal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, record: Any, reason: str
) -> None:
    monkeypatch.setattr(graph, "record", record)
    model = causal()
    expected = plainly(model, greedy())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert torch.equal(over_slots(model, greedy()), expected)
    said = [record.message for record in caplog.records if record.name == graph.__name__]
    assert len(said) == 1
    assert reason in said[0]


def test_a_lack_of_memory_is_no_reason_against_graphs(causal: Causal, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(graph, "record", full)
    model = causal()
    with pytest.raises(torch.OutOfMemoryError):
        over_slots(model, greedy(), IDS[:1])
    assert graph.trunk_of(model) not in graph._EAGER


@pytest.mark.parametrize("autocast", [False, True])
def test_a_graph_sees_what_an_optimizer_writes(causal: Causal, autocast: bool) -> None:
    """It reads weights where they are; under autocast it converts them again at each step."""
    model = causal("qwen3").requires_grad_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    drawing = Drawing(LogitsProcessorList(), samples=False, noted=1.0, ends=(EOS,))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), our_attention(model.config):

        def responses(slots: Slots, step: Callable[[], Any]) -> list[Tensor]:
            found = Filler(model, slots, step).respond(PROMPTS, torch.zeros(3, 8, dtype=torch.float64))
            return [found.ids, found.log_probs, found.lengths]

        with torch.no_grad():
            slots = Slots(model, shapes(model), 4, 32, drawing)
            replay = record_on_a_cpu(slots.step, model.device)
            before = responses(slots, replay)
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        with torch.no_grad():
            after = responses(slots, replay)
            expected = responses(fresh := Slots(model, shapes(model), 4, 32, drawing), fresh.step)
    assert all(torch.equal(*both) for both in zip(after, expected, strict=True))
    assert not torch.equal(after[1], before[1])


def test_operations_are_counted_with_and_without_a_graph(causal: Causal, replays: list[int]) -> None:
    flops = []
    for model in (counted(causal()), counted(causal())):
        if flops:
            graph._EAGER.add(graph.trunk_of(model))
        over_slots(model, greedy())  # trials count nothing
        with counting() as counter:
            over_slots(model, greedy())
        flops.append(counter.flops)
    assert replays
    assert flops[0] == flops[1] > 0


def test_a_graph_is_tried_once_for_each_size(
    causal: Causal, replays: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, tried = graph._same_bits, list[int]()
    monkeypatch.setattr(graph, "_same_bits", lambda model, slots, step: [tried.append(1), own(model, slots, step)][1])
    model = causal()
    for rows in (1, 1, 4, 4, 1):
        over_slots(model, greedy(), IDS[:rows])
    assert len(tried) == 2
    assert replays


@pytest.mark.parametrize("worse", ["another token", "no keys", "nothing at all"])
def test_each_graph_is_compared(
    causal: Causal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, worse: str
) -> None:
    """The first of a size was right."""

    def record(step: Any, device: torch.device) -> Callable[[], None]:
        replay, slots = record_on_a_cpu(step, device), step.__self__

        def off() -> None:
            replay()
            if worse == "another token":
                slots._ids += 1
            else:
                slots.cache.layers[-1].keys.zero_()

        return {"nothing at all": lambda: None}.get(worse, off)

    model, found = causal(), list[Tensor]()
    for each in (record_on_a_cpu, record):
        monkeypatch.setattr(graph, "record", each)
        found.append(over_slots(model, sampled()))
    assert torch.equal(*found)
    assert "others than without" in caplog.text


def test_a_later_graph_costs_one_step_more(causal: Causal, replays: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    own, steps, model = Slots.step, list[int](), causal()
    monkeypatch.setattr(Slots, "step", lambda slots: [steps.append(1), own(slots)][1])
    over_slots(model, greedy())
    steps.clear()
    over_slots(model, greedy())
    assert len(steps) == 1 + 3 + 1  # counted, recorded, compared


def test_on_a_gpu_alone() -> None:
    assert not graph.CUDA_GRAPH.active(torch.zeros(1))
    with pretending("cuda"):
        assert graph.CUDA_GRAPH.active(torch.zeros(1))
