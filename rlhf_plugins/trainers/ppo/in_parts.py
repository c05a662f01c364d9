"""Generates a rollout and computes its models' outputs, in smaller parts where memory runs out.

In several processes, which take each step together, nothing is cut further.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_plugins.contract import processes
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.engine.decoding import AT_ONCE
from rlhf_plugins.engine.out_of_memory import attempted, release_memory, too_much, warn
from rlhf_plugins.engine.token_budget import cached_at_once, generated, in_batches
from rlhf_plugins.errors import RunError
from rlhf_plugins.trainers.steps.recovery import Before

if TYPE_CHECKING:
    from rlhf_plugins.engine.decoding import Loop
    from rlhf_plugins.trainers.ppo.models import Outputs
    from rlhf_plugins.trainers.ppo.rollout import MicroBatch, Rollouts, TokenTensors

    Computed = tuple[TokenTensors, Outputs | None]

SMALLER = (
    "with %d tokens of a rollout at once: it is computed in parts of at most %d, and so are later ones; "
    "the numbers stay the same"
)


def generated_for(trainer: Any, prompts: Sequence[Any], another: Any, loop: Loop) -> list[Any]:
    """What TRL's trainer generates for all prompts, but for as many at once as there is room for.

    Args:
        trainer: TRL's.
        prompts: the prompts of this process.
        another: prompt, which is generated for where this process has none.
        loop: the loop that generates.

    Raises:
        RunError: memory does not hold a single response.
    """
    limit = cached_at_once(trainer.model)
    if trainer.use_vllm:
        return [trainer._generate(list(prompts))]
    several = processes.count() > 1
    if several and limit is None:
        return [_with_others(trainer, prompts, another)]
    lengths = [len(ids) + trainer.max_completion_length for ids in trainer._tokenize_prompts(list(prompts))[0]]
    if several:
        most = max(processes.gathered(len(list(in_batches(lengths, AT_ONCE, limit)))))
        own = (prompts[processes.part(len(prompts), i, most)] for i in range(most))
        return [_with_others(trainer, each, another) for each in own]
    noted = [(trainer, "_metrics"), (trainer.state, "num_input_tokens_seen")]

    def generate(part: slice) -> Any:
        return trainer._generate(list(prompts[part]))

    def undo() -> Callable[[], None]:
        return Before(noted).restore

    refills = loop.refills(trainer.model, trainer.generation_config)
    rows = len(prompts) if limit is None or refills else AT_ONCE
    return [found for _, found in generated(trainer.model, lengths, rows, generate, undo, refills)]


def _with_others(trainer: Any, prompts: Sequence[Any], another: Any) -> list[Any]:
    """What is generated where other processes generate for more prompts or fewer; TRL logs the lengths of all."""
    count, accelerator = len(prompts), trainer.accelerator

    def of_all(values: Tensor) -> Tensor:
        return torch.cat([each.to(values.device) for each in processes.gathered(values[:count].cpu())])

    accelerator.gather = of_all  # accelerate's takes as many numbers of each
    try:
        found = trainer._generate(list(prompts) or [another])
    finally:
        del accelerator.gather
    return [rows[:count] if isinstance(rows, list) else rows for rows in found]


def computed(
    rollouts: Rollouts, samples: Samples, steps: Sequence[Tensor], others: Tensor
) -> tuple[tuple[tuple[MicroBatch, ...], ...], list[MicroBatch], list[Computed]]:
    """The micro-batches of each training step; those that are learned from, then others; the outputs for each of these.

    Where they do not fit into memory they are cut smaller, from then on.

    Args:
        rollouts: the rollouts that cut and compute.
        samples: the samples of a rollout.
        steps: the rows (b,) of each training step.
        others: rows that no step learns from.

    Raises:
        RunError: one response does not fit, or a minibatch that a component needs whole.
    """
    while True:
        parts = rollouts.parts(samples, steps)
        learned = [batch for part in parts for batch in part if batch.counts]
        batches = [*learned, *rollouts.micro_batches(samples, others[processes.share(len(others))])]
        if processes.count() > 1:
            return parts, batches, [rollouts.compute(each.batch, keep=False) for each in batches]
        found, reason = attempted(_outputs, rollouts, batches, len(learned))
        if found is not None:
            return parts, batches, found
        release_memory()
        largest = max(each.tokens for each in batches)
        if rollouts.cut.whole or all(len(each.rows) == 1 for each in batches):
            raise RunError(too_much(reason, f"{largest} tokens that cannot be cut are"))
        rollouts.cut.tokens = largest // 2
        warn(SMALLER, largest, largest // 2)


def _outputs(rollouts: Rollouts, batches: Sequence[MicroBatch], learned: int) -> list[Computed]:
    """Computes all, keeping the graph of the first if no other is learned from."""
    keep = learned == 1
    return [rollouts.compute(each.batch, keep=keep and not place) for place, each in enumerate(batches)]


def joined(rows: Sequence[Tensor], parts: Sequence[TokenTensors], device: torch.device) -> TokenTensors:
    """The tensors of the micro-batches of all processes as whole ones, in the order of sampling."""
    if processes.count() > 1:
        own_parts = [{name: tensor.cpu() for name, tensor in part.items()} for part in parts]
        every = processes.gathered(([own.cpu() for own in rows], own_parts))
        rows = [own.to(device) for own in processes.joined([own for own, _ in every])]
        cut = processes.joined([part for _, part in every])
        parts = [{name: tensor.to(device) for name, tensor in part.items()} for part in cut]
    shape = sum(map(len, rows)), max(part["mask"].shape[1] for part in parts)
    whole = {name: torch.zeros(shape, dtype=t.dtype, device=t.device) for name, t in parts[0].items()}
    for own, part in zip(rows, parts, strict=True):
        for name, tensor in part.items():
            whole[name][own, : tensor.shape[1]] = tensor
    return whole


def halves(rollouts: Rollouts, samples: Samples, part: MicroBatch) -> list[MicroBatch]:
    """A micro-batch as two; none where it has one response, or a component needs it whole."""
    if rollouts.cut.whole or len(part.rows) < 2:
        return []
    middle = len(part.rows) // 2
    both = part.rows[:middle], part.rows[middle:]
    taken = (samples.take(rows.tolist()) for rows in both)
    batches = [rollouts.models.batches(each.prompt_ids, each.response_ids, None)[0] for each in taken]
    return [replace(part, rows=rows, batch=batch) for rows, batch in zip(both, batches, strict=True)]
