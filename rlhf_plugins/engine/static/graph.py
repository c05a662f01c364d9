"""A step of generation as a CUDA graph: recorded once, and then launched as a whole.

A graph reads weights where they are, so that it sees what an optimizer writes there; a step is recorded where no row
runs, when it changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from rlhf_plugins.engine import CUDA_GRAPH, cost
from rlhf_plugins.engine.forward import earlier_result, probe_ids, trial_result, trunk_of
from rlhf_plugins.engine.out_of_memory import out_of_memory
from rlhf_plugins.engine.static.filling import Filler, Responses
from rlhf_plugins.engine.static.slots import Slots

logger = logging.getLogger(__name__)
_EAGER: WeakSet[nn.Module] = WeakSet()  # trunks whose step no graph computes
PLACES = 16  # of the cache that a trial compares


def recorded(model: Any, slots: Slots) -> Callable[[], Any]:
    """A step of all slots, none of which runs yet: as a CUDA graph where that computes the same bits, else as it is.

    Raises:
        RuntimeError: memory ran out, in one of torch's classes.
    """
    trunk = trunk_of(model)
    if not CUDA_GRAPH.active(model) or trunk in _EAGER:
        return slots.step
    try:
        with cost.uncounted(), cost.counting() as counter:
            slots.step()
        with cost.uncounted():
            replay = record(slots.step, model.device)
        if _agrees(model, slots, replay):
            return _counted(replay, counter.flops)
        reason = "its tokens or its keys and values are others than without"
    except Exception as error:  # what cannot be recorded raises several classes
        if out_of_memory(error):
            raise
        reason = f"it cannot be recorded ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    _EAGER.add(trunk)
    logger.warning("%s generates without a CUDA graph: %s", type(trunk).__name__, reason)
    return slots.step


def record(step: Callable[[], Any], device: torch.device) -> Callable[[], None]:
    """A function that launches again what a step launches on a GPU.

    Raises:
        RuntimeError: the step waits for the device, or does what no graph can hold.
    """
    with torch.cuda.device(device):
        stream, mode = _stream(device), torch.cuda.get_sync_debug_mode()
        before = torch.cuda.current_stream()
        stream.wait_stream(before)
        with torch.cuda.stream(stream):
            step()
            torch.cuda.set_sync_debug_mode("error")  # a capture that fails leaves torch's random state in it
            try:
                step()
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        before.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                step()
        finally:
            torch.cuda.set_stream(before)  # a capture that CUDA ends with an error leaves its own
    return graph.replay


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The one on which steps are recorded: cuBLAS keeps memory for each stream."""
    return torch.cuda.Stream(device)


def _counted(replay: Callable[[], None], flops: float) -> Callable[[], None]:
    def step() -> None:
        replay()
        cost.add(flops=flops)

    return step


def _agrees(model: Any, slots: Slots, replay: Callable[[], None]) -> bool:
    """Whether a graph gives the bits of the step: the first of a size in whole responses, each later one in a step."""
    trunk, size = trunk_of(model), f"graph of {slots.count} x {slots.capacity}, {slots.drawing.key}"
    if earlier_result(trunk, size):
        with cost.uncounted():
            return _same_step(model, slots, replay)
    return trial_result(trunk, size, lambda: _same_bits(model, slots, replay))


def _same_step(model: Any, slots: Slots, replay: Callable[[], None]) -> bool:
    """Whether both draw the same of all slots. The graph is first: what it does not write is not there."""
    every, found = range(slots.count), list[list[Tensor]]()
    lengths = [1 + slot % min(PLACES, slots.capacity) for slot in every]
    numbers = torch.linspace(0, 0.99, slots.count, dtype=torch.float64, device=model.device).unsqueeze(1)
    for step in (replay, slots.step):
        slots.start(every, probe_ids(trunk_of(model), slots.count), lengths, numbers)
        step()
        found.append([*slots.responses(every, 1), *_states(slots)])
    slots.stop()
    return all(torch.equal(*both) for both in zip(*found, strict=True))


def _same_bits(model: Any, slots: Slots, replay: Callable[[], None]) -> bool:
    ids = probe_ids(trunk_of(model), 12)
    prompts = [tuple(ids[:5]), tuple(ids[5:6]), tuple(ids[6:9])]
    numbers = torch.linspace(0, 0.99, 18, dtype=torch.float64, device=model.device).view(3, 6)
    (first, states), (second, others) = (
        (Filler(model, slots, step).respond(prompts, numbers), _states(slots)) for step in (slots.step, replay)
    )
    slots.stop()
    return _equal(first, second) and all(torch.equal(*both) for both in zip(states, others, strict=True))


def _states(slots: Slots) -> list[Tensor]:
    last = slots.cache.layers[-1]
    return [memory[:, :, :PLACES].clone() for memory in (last.keys, last.values)]


def _equal(first: Responses, second: Responses) -> bool:
    if not torch.equal(first.lengths, second.lengths):
        return False
    within = torch.arange(first.ids.shape[1], device=first.ids.device) < first.lengths.unsqueeze(1)
    pairs = ((first.ids, second.ids), (first.log_probs, second.log_probs))
    return all(torch.equal(one[within], other[within]) for one, other in pairs)
