"""Runs a stage's own passes on fake tensors under a meter: its training step, forward pass or generation.

A model of a few layers is traced twice, and the rest is extrapolated: each further layer adds the same to the peak of
each part of a work, such as its forward pass. Which part has the largest peak may change with the layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rlhf_plugins.contract.workload import PROMPT_TOKENS, Work
from rlhf_plugins.data.batches.branches import Layout, PromptBranches, size
from rlhf_plugins.engine import current_engine, pretending
from rlhf_plugins.engine.cost import counting, uncounted
from rlhf_plugins.engine.forward import trunk_of
from rlhf_plugins.engine.half import trials
from rlhf_plugins.engine.layers import decoder_layers
from rlhf_plugins.engine.log_probs import response_logps
from rlhf_plugins.forecast.fakes import DEVICE, Build, fake_batch, fake_model, fake_reward, layout_on_gpu
from rlhf_plugins.forecast.kernels import KERNELS
from rlhf_plugins.forecast.meter import Meter, allocating
from rlhf_plugins.forecast.shapes import period, with_layers

ADAPTERS, OPTIMIZER, GRADIENTS = "adapters", "optimizer", "gradients"
STATES: Mapping[str, int] = {  # bytes of an optimizer's state per trained weight
    "adamw_8bit": 2,
    "adamw_bnb_8bit": 2,
    "paged_adamw_8bit": 2,
    "adamw_torch_8bit": 2,
    "adamw_torch_4bit": 1,
    "ademamix": 12,
    "paged_ademamix_32bit": 12,
    "ademamix_8bit": 3,
    "paged_ademamix_8bit": 3,
    "lion": 4,
    "lion_8bit": 1,
    "lion_32bit": 4,
    "paged_lion_8bit": 1,
    "paged_lion_32bit": 4,
    "sgd": 0,
    "adafactor": 1,
    "adagrad": 4,
    "rmsprop": 4,
    "rmsprop_bnb": 4,
    "rmsprop_bnb_32bit": 4,
    "rmsprop_bnb_8bit": 1,
}
TEMPORARY: Mapping[str, int] = {  # bytes per trained weight that a step of all tensors at once allocates meanwhile
    "adamw_torch": 4,
    "rmsprop": 4,
    "adagrad": 8,
}
ADAMW = 8  # bytes a weight of two moments in float32
NAMES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.uint8: "nf4",
    torch.int8: "int8",
}


@dataclass(frozen=True)
class Setting:
    """What all works of a stage have in common.

    Args:
        build: how its model is made.
        autocast: the precision of its passes; None is that of the weights.
        optimizer: its name in transformers; None where nothing is trained.
        adapters: on the base, the trained one included.
        models: whole models beside, frozen.
    """

    build: Build
    autocast: torch.dtype | None
    optimizer: str | None
    adapters: int = 1
    models: int = 0


Bytes = dict[str, int]  # by consumer


class Found(NamedTuple):
    """What was measured of a `Work`.

    Args:
        peaks: bytes by consumer at the peak of each of its parts.
        flops: its operations, as the engine counts them.
        assumed: fast paths whose trials on the device are assumed to pass, by their names.
    """

    peaks: Mapping[str, Bytes]
    flops: float
    assumed: frozenset[str]


def traced(config: Any, work: Work, setting: Setting) -> Bytes:
    """Bytes at the peak of a work, by consumer, of a model of all its layers.

    Args:
        config: the config of the model.
        work: what it computes.
        setting: how, and what is held meanwhile.
    """
    one, two, more = _few(config, work, setting)
    before = {**dict.fromkeys(two.peaks, one.peaks.get("backward", {})), **one.peaks}  # one may have no other layers
    parts = [_further(before[part], two.peaks[part], more) for part in two.peaks]
    return max(parts, key=lambda part: sum(part.values()))


def _further(before: Bytes, after: Bytes, more: float) -> Bytes:
    return {name: round(before.get(name, 0) + more * (after[name] - before.get(name, 0))) for name in after}


def assumed(config: Any, work: Work, setting: Setting) -> frozenset[str]:
    """The names of the fast paths on which `traced` counts, each of which has a trial on the device before its use."""
    one, two, _ = _few(config, work, setting)
    return one.assumed | two.assumed


def flops(config: Any, work: Work, setting: Setting) -> float:
    """Floating-point operations of a work of a model of all its layers; what is sampled counts as one forward pass."""
    once = replace(work, does="score") if work.does == "sample" else work
    one, two, more = _few(config, once, setting)
    return one.flops + more * (two.flops - one.flops)


def _few(config: Any, work: Work, setting: Setting) -> tuple[Found, Found, float]:
    """A work of two models of few layers, and how often their difference comes to the first in the whole model."""
    few, layers = period(config), config.num_hidden_layers
    first, second = (few, 2 * few) if few > 1 else (2, 3)
    if layers <= second:
        whole = _traced(config, layers, work, setting)
        return whole, whole, 0.0
    one, two = (_traced(config, count, work, setting) for count in (first, second))
    return one, two, (layers - first) / (second - first)


ON = "cuda"  # the type of device that fake tensors pretend to be on
_KNOWN: dict[str, Found] = {}  # traces of this process


def _traced(config: Any, layers: int, work: Work, setting: Setting) -> Found:
    """Traces a work on a model with this many layers."""
    how = current_engine(), sorted(trials.failed(ON))
    key = repr((with_layers(config, layers).to_json_string(), work, setting, how))
    if key not in _KNOWN:
        _KNOWN[key] = _trace(with_layers(config, layers), work, setting)
    return _KNOWN[key]


def _trace(config: Any, work: Work, setting: Setting) -> Found:
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    groups = laid_out(work, layout_on_gpu(config, setting.build.dtype))
    rows = max(len(one.prompt) + sum(map(len, one.branches)) for one in groups)
    meter = Meter(config.vocab_size, 0 if work.does == "sample" else rows)
    with pretending(ON, KERNELS), trials.assumed() as names:
        policy = fake_model(config, setting.build, fake, head=work.head is None)
        model = policy
        if work.pooling is not None and work.head is not None:
            model = fake_reward(policy, work.pooling, work.head, fake)
        with fake, meter, uncounted(), counting() as counter:  # it is no work of the stage around it
            resident = _resident(model, meter, setting)
            _run(model, groups, work, setting, (meter, fake))
            del resident
    return Found(meter.peaks, counter.flops, frozenset(names))


def laid_out(work: Work, layout: Layout) -> list[PromptBranches]:
    """The largest batch of a work: as many groups as its limit of tokens allows, at least one."""
    prompt = [5] * (PROMPT_TOKENS if work.prompt_tokens is None else max(1, work.prompt_tokens))
    response = [6] * max(1, work.response_tokens)
    responses = work.responses
    while responses > 1 and work.tokens is not None and _size(prompt, response, responses, layout) > work.tokens:
        responses -= 1
    group = PromptBranches(prompt, [response] * responses)
    most = work.prompts if work.tokens is None else work.tokens // _size(prompt, response, responses, layout)
    return [group] * max(1, min(work.prompts, most))


def _size(prompt: list[int], response: list[int], responses: int, layout: Layout) -> int:
    return size([PromptBranches(prompt, [response] * responses)], layout)


def _resident(model: Any, meter: Meter, setting: Setting) -> list[Tensor]:
    """What is there all the time: weights, adapters, the optimizer's state."""
    kept: list[Tensor] = []
    frozen: Counter[torch.dtype] = Counter()
    trained = adapters = 0
    for weights in [*model.parameters(), *model.buffers()]:
        if weights.requires_grad:
            name = ADAPTERS if setting.build.adapter else f"weights {NAMES[weights.dtype]}"
            trained += weights.numel()
            adapters += weights.nbytes
            weights.register_post_accumulate_grad_hook(lambda one: meter.rename(one.grad, GRADIENTS))
        else:
            name = f"weights {NAMES.get(weights.dtype, 'other')}"
            frozen[weights.dtype] += weights.nbytes
        meter.count(weights, name)
    per_weight = state_bytes(setting.optimizer) if setting.optimizer else 0
    with allocating(OPTIMIZER):
        kept.append(torch.empty(trained * per_weight, dtype=torch.uint8, device=DEVICE))
    with allocating(ADAPTERS):
        count = (setting.adapters - 1) * adapters * bool(setting.build.adapter)
        kept.append(torch.empty(count, dtype=torch.uint8, device=DEVICE))
    if not setting.build.adapter:  # a whole copy has what is trained, too
        frozen[torch.float32] += adapters
    for _ in range(setting.models):
        for dtype, count in frozen.items():
            with allocating(f"weights {NAMES.get(dtype, 'other')}"):
                kept.append(torch.empty(count, dtype=torch.uint8, device=DEVICE))
    return kept


def state_bytes(optimizer: str) -> int:
    """Bytes of an optimizer's state for each trained weight, by transformers' name; an unknown one counts as AdamW."""
    return STATES.get(optimizer.removesuffix("_torch"), ADAMW)


def _run(
    model: Any, groups: list[PromptBranches], work: Work, setting: Setting, under: tuple[Meter, FakeTensorMode]
) -> None:
    """One pass of a work."""
    if work.does == "sample":
        from rlhf_plugins.forecast.generation import over_slots, slots_on_gpu, transformers_loop

        model.eval()
        with torch.no_grad():
            transformers_loop(model, groups, under[0])  # which generates where the trial of the other fails
            if slots_on_gpu(model):
                over_slots(model, work, under[0])
        return
    trunk = model.trunk if work.head is not None else model
    with _without_modes():
        batch = fake_batch(groups, layout_on_gpu(trunk.config, setting.build.dtype), under[1])
    if work.does == "score":
        model.eval()
    else:
        _after_the_last_layer(trunk, under[0])
    with torch.set_grad_enabled(work.does == "learn"):
        with _autocast(setting):
            if work.head is not None:
                made = model(batch)
            else:
                found = response_logps(model, batch, entropy=work.entropy)
                made = found.logps.sum()
                if work.values:
                    made = made + found.hidden.float().sum()
        if work.does == "learn":
            under[0].begin("backward")
            made.sum().backward()
            under[0].begin("optimizer step")
            per_weight = TEMPORARY.get(setting.optimizer or "", 0)
            with allocating(OPTIMIZER):
                torch.empty(per_weight * _trained(model), dtype=torch.uint8, device=DEVICE)


def _trained(model: Any) -> int:
    return sum(weights.numel() for weights in model.parameters() if weights.requires_grad)


def _after_the_last_layer(trunk: Any, meter: Meter) -> None:
    """Once the backward pass is through the last layer, a part begins: what layers free may be less than gradients."""

    def begins(_: Any, given: tuple[Tensor, ...]) -> None:
        if given[0].requires_grad:
            given[0].register_hook(lambda _: meter.begin("backward of the other layers"))

    if layers := decoder_layers(trunk_of(trunk)):
        layers[-1].register_forward_pre_hook(begins)


def _autocast(setting: Setting) -> Any:
    return torch.autocast(DEVICE, dtype=setting.autocast or torch.bfloat16, enabled=setting.autocast is not None)


@contextmanager
def _without_modes() -> Iterator[None]:
    """For the block, tensors are real and nothing is counted."""
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():
        yield
