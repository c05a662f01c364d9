"""One training in several processes: each computes its share of every batch, and gradients are those of the whole one.

A batch of P processes is P times that of one, and is cut into P nearly equal parts of neighbours. The mean over its N
rows is the mean over the processes of each one's own mean times P n / N, where n rows are its own: what DDP averages.
So no row is computed twice or left out, also where the last batch of an epoch does not divide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rlhf_plugins.contract import processes
from rlhf_plugins.engine.weights.partitions import HEAD
from rlhf_plugins.errors import RunError
from rlhf_plugins.trainers import zero
from rlhf_plugins.trainers.steps.micro_batches import MICRO_BATCHES
from rlhf_plugins.trainers.steps.recovery import KEPT, ROWS, SHARE

Found = TypeVar("Found")
LABELS = "labels"  # a key of a batch
IGNORED = -100  # a label that no loss reads


@dataclass(frozen=True)
class Share:
    """Makes the batch of one process of the rows of all.

    Args:
        collate: makes a batch of rows.
        index: the index of the process.
        count: the number of processes.
    """

    collate: Callable[[Sequence[Any]], dict[str, Any]]
    index: int
    count: int

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        """-> a batch whose mean loss is weighted by its part of the rows; of no rows, one that counts nothing."""
        own = rows[processes.part(len(rows), self.index, self.count)]
        weight = len(own) * self.count / len(rows)
        batch = self.collate(own or rows[:1])
        if MICRO_BATCHES in batch:
            cut = [{**one, SHARE: one[SHARE] * weight} for one in batch[MICRO_BATCHES]]
            return {MICRO_BATCHES: cut, ROWS: len(own)}
        if KEPT in batch:
            return {**batch, SHARE: torch.tensor(weight), ROWS: len(own)}
        return batch if own else {**batch, LABELS: torch.full_like(batch[LABELS], IGNORED)}


class SharesBatches:
    """A Trainer that computes its process's share of every batch; it comes before the Trainer among a class's bases."""

    cuts_batches = True  # whether its collator makes the batch of a process; else each process gets all rows
    autocasts = True  # whether its passes themselves compute in the precision of its arguments
    _batch_rows = 0  # rows of all processes in the batch that is evaluated

    def create_accelerator_and_postprocess(self: Any) -> None:
        """Called by the constructor."""
        with zero.configuring(self):
            super().create_accelerator_and_postprocess()  # type: ignore[misc]
        if processes.fsdp() and self.autocasts:  # else FSDP would round weights, heads' too, and losses
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = None

    def _get_dataloader(self: Any, dataset: Any, description: str, batch_size: int, *given: Any, **named: Any) -> Any:
        """The batches of all processes, of which each takes its share."""
        whole: Callable[..., Any] = super()._get_dataloader  # type: ignore[misc]
        count = processes.count()
        if count == 1 or isinstance(dataset, torch.utils.data.IterableDataset):
            return whole(dataset, description, batch_size, *given, **named)
        if self.args.train_sampling_strategy == "batch_rebalance":
            raise RunError("train_sampling_strategy: batch_rebalance cuts batches otherwise; write random")
        trainer: Any = self
        own, state = trainer.data_collator, trainer.accelerator.state
        each = state.num_processes, state.process_index
        if self.cuts_batches:
            trainer.data_collator = Share(own, processes.index(), count)
        state.num_processes, state.process_index = 1, 0  # or accelerate would give each process other batches
        try:
            return whole(dataset, description, batch_size * count, *given, **named)
        finally:
            trainer.data_collator = own
            state.num_processes, state.process_index = each

    def note_rows(self: Any, inputs: Mapping[str, Any]) -> None:
        """Notes how many rows of a batch that is evaluated all processes have."""
        if processes.count() > 1:
            self._batch_rows = sum(processes.gathered(int(inputs[ROWS])))

    def shared_losses(self: Any, values: Tensor, **_: Any) -> Tensor:
        """The loss of a whole batch once for each of its rows, of one process's part in it; anything else as it is.

        Trainer gathers with it while it evaluates, and takes the mean over rows.
        """
        return values if values.dim() > 1 else processes.mean(values[:1]).expand(self._batch_rows)


def counts(inputs: Mapping[str, Any]) -> bool:
    """Whether a batch has rows of this process."""
    return inputs.get(ROWS, 1) > 0


def through(wrapped: Any, model: nn.Module, compute: Callable[[], Found]) -> Found:
    """What a function computes of a model, as the forward pass of what wraps it, which then averages gradients.

    Args:
        wrapped: DistributedDataParallel, or the model itself, whose shards are then gathered in its pass.
        model: inside.
        compute: calls the model and its parts.
    """
    if wrapped is model and not processes.shards():
        return compute()
    before = vars(model).get("forward")

    def restore() -> None:
        if before is None:
            vars(model).pop("forward", None)
        else:
            model.forward = before

    def once(_: None) -> Found:
        restore()
        if processes.fsdp() and hasattr(model, HEAD):
            getattr(model, HEAD)().unshard()  # it is read, not called
        return compute()

    model.forward = once
    try:
        found: Found = wrapped(None)  # DDP on a GPU needs an argument
    finally:
        restore()
    return found
