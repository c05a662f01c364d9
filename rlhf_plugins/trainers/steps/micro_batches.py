"""A batch cut into micro-batches of at most so many tokens, which are computed one after the other.

Memory then depends on the size of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import TrainingArguments

from rlhf_plugins.contract import processes
from rlhf_plugins.data.batches.branches import Layout, PromptBranches, size
from rlhf_plugins.engine.out_of_memory import out_of_memory
from rlhf_plugins.errors import RunError
from rlhf_plugins.trainers.steps.recovery import KEPT, ROWS, SHARE, Cutting, Kept, Opaque, Recovery

Made = TypeVar("Made")
Row = Mapping[str, Any]
MICRO_BATCHES = "micro_batches"
STEPPING = ("layerwise", "lomo")  # in the names of optimizers that step within the backward pass


def in_micro_batches(
    rows: Sequence[Row],
    groups: Callable[[Row], Sequence[PromptBranches]],
    tokens: int | None,
    layout: Layout,
    collate: Callable[[Sequence[Row]], dict[str, Tensor]],
) -> dict[str, Any]:
    """The batch that `collate` makes of some rows, or its `micro_batches` with the `share` of each.

    Args:
        rows: the rows of a data set, in order.
        groups: the prompts and responses of a row.
        tokens: most tokens of a micro-batch, padding included; a row that alone has more is a micro-batch of its own.
            None is no limit.
        layout: how groups become rows of a batch.
        collate: makes a batch of rows.
    """
    parts: list[list[Row]] = [[]]
    filled: list[PromptBranches] = []
    for row in rows:
        own = groups(row)
        if tokens is not None and filled and size([*filled, *own], layout) > tokens:
            parts.append([])
            filled = []
        parts[-1].append(row)
        filled = [*filled, *own]
    if len(parts) == 1:
        return {**collate(rows), KEPT: Opaque(Kept(rows, collate))}
    shares = [torch.tensor(len(part) / len(rows)) for part in parts]
    kept = [Opaque(Kept(part, collate)) for part in parts]
    whole = zip(parts, shares, kept, strict=True)
    return {MICRO_BATCHES: [{**collate(part), SHARE: share, KEPT: own} for part, share, own in whole]}


def token_limit(tokens: int | None, args: TrainingArguments, *components: Any) -> int | None:
    """The limit of a micro-batch; None where a component uses batch mates, or each backward pass is a step."""
    whole = _steps_each_pass(args) or any(component.uses_batch_mates for component in components)
    return None if whole else tokens


def steps_in_backward(args: TrainingArguments) -> bool:
    """Whether a backward pass ends in the step, so that no gradient is there afterwards to be changed."""
    return processes.divides_optimizer() or _steps_each_pass(args)


def _steps_each_pass(args: TrainingArguments) -> bool:
    """Whether each backward pass is a step, so that gradients cannot be added to."""
    return bool(args.deepspeed) or any(name in optimizer_name(args) for name in STEPPING)


def stepping(args: TrainingArguments) -> str:
    """What steps within the backward pass, as a user writes it."""
    deepspeed = args.deepspeed or processes.divides_optimizer()
    return "DeepSpeed" if deepspeed else f"optim: {optimizer_name(args)}"


def optimizer_name(args: TrainingArguments) -> str:
    """The optimizer's name as users write it; TrainingArguments hold a member of an enumeration with another `str`."""
    return str(getattr(args.optim, "value", args.optim))


class TrainsInMicroBatches:
    """A Trainer whose batches may come as micro-batches; it comes before the Trainer among a class's bases.

    A micro-batch that does not fit into memory is cut again, where `cuts` allows it.
    """

    cuts = False  # whether a batch in pieces trains as the whole one does
    cutting: Cutting | None = None
    _recovery: Recovery | None = None

    def noted(self) -> list[tuple[Any, str]]:
        """What a step changes besides gradients, as (holder, name of an attribute)."""
        return [(self, "_metrics"), (self, "_total_train_tokens")]

    def training_step(self, model: Any, inputs: dict[str, Any], *given: Any) -> Tensor:
        """The batch's loss; its gradients are accumulated."""
        step: Callable[..., Tensor] = super().training_step  # type: ignore[misc]
        parts = inputs.get(MICRO_BATCHES, [inputs])
        if processes.count() > 1:
            parts = evened(parts, uncounted)
            return torch.stack([self._in_step(step, model, parts, place, *given) for place in range(len(parts))]).sum()
        if not self.cuts:
            return torch.stack([step(model, part, *given) for part in parts]).sum()
        self._recovery = self._recovery or Recovery(model, self.noted, self.cutting)
        recovery = self._recovery
        return torch.stack([recovery.computed(lambda one: step(model, one, *given), part) for part in parts]).sum()

    def _in_step(
        self: Any, step: Callable[..., Tensor], model: Any, parts: Sequence[Any], place: int, *given: Any
    ) -> Tensor:
        """The loss of a micro-batch of one of several processes, which may have more of them than another: gradients
        are averaged with those of its last one. One that does not fit into memory ends the run."""
        last = place == len(parts) - 1
        try:
            with nullcontext() if last else without_step(self.accelerator, model):
                return step(model, parts[place], *given)
        except Exception as error:
            if out_of_memory(error):
                reason = str(error).partition("\n")[0]
                what = f"of {len(parts)} parts of a batch: {reason}: write a smaller tokens_per_batch"
                raise RunError(f"process {processes.index()} has no memory for part {place + 1} {what}") from error
            raise

    def prediction_step(self, model: Any, inputs: dict[str, Any], *given: Any, **options: Any) -> tuple[Any, ...]:
        """The batch's loss, outputs and labels; outputs and labels are None where only the loss is asked.

        Outputs of micro-batches are joined as TRL's are laid out: those of all chosen responses, then of all rejected.
        """
        step: Callable[..., tuple[Any, ...]] = super().prediction_step  # type: ignore[misc]
        cut = inputs.get(MICRO_BATCHES, [inputs])
        parts = [step(model, part, *given, **options) for part in evened(cut, uncounted)]
        if len(parts) == 1:
            return parts[0]
        losses, _, _ = zip(*parts, strict=True)
        _, outputs, labels = zip(*parts[: len(cut)], strict=True)
        halves = zip(*(each.chunk(2) for each in outputs if each is not None), strict=True)
        joined = torch.cat([torch.cat(half) for half in halves]) if outputs[0] is not None else None
        return torch.stack(losses).sum(), joined, labels[0]


@contextmanager
def without_step(accelerator: Any, model: Any) -> Iterator[None]:
    """For the block, gradients are accumulated alone: not averaged yet, nor, by DeepSpeed's engine, applied."""
    if not processes.divides_optimizer():
        with accelerator.no_sync(model):
            yield
        return
    state = accelerator.gradient_state
    before = state.sync_gradients
    state._set_sync_gradients(False)
    try:
        yield
    finally:
        state._set_sync_gradients(before)


def accumulate(accelerator: Any, loss: Tensor) -> None:
    """Adds the gradients of a loss as they are; DeepSpeed's engine would divide them by the accumulated batches."""
    accelerator.backward(loss, **({"scale_wrt_gas": False} if processes.divides_optimizer() else {}))


def evened(parts: Sequence[Made], filler: Callable[[Made], Made]) -> list[Made]:
    """The micro-batches of a process; where each pass gathers weights or sends gradients, with others that count
    nothing, so that all processes have as many.

    Args:
        parts: the micro-batches.
        filler: what counts nothing, made of one of them.
    """
    if not processes.shards() and not processes.divides_optimizer():
        return list(parts)
    most = max(processes.gathered(len(parts)))
    return [*parts, *(filler(parts[-1]) for _ in range(most - len(parts)))]


def uncounted(part: Mapping[str, Any]) -> dict[str, Any]:
    """A micro-batch of rows that counts nothing."""
    return {**part, SHARE: torch.tensor(0.0), ROWS: 0}


def by_share(loss: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """The mean loss of a micro-batch as its part of the batch's."""
    return loss * inputs[SHARE] if SHARE in inputs else loss
