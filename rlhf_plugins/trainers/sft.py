"""TRL's SFTTrainer, in one process or several: a loss is the mean over the tokens of all processes' batch.

The computation and the numbers are TRL's; where rows have weights, each multiplies the loss of its row's tokens. In one
process a batch that does not fit into memory is computed in halves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import trl
from torch import Tensor

from rlhf_plugins.contract import processes
from rlhf_plugins.engine.weights.loading import use_fast_paths
from rlhf_plugins.errors import RunError
from rlhf_plugins.trainers.arguments import check_rows, train_in_float32
from rlhf_plugins.trainers.optimizer_state import AllocatesState
from rlhf_plugins.trainers.steps.data_parallel import IGNORED, LABELS, SharesBatches
from rlhf_plugins.trainers.steps.micro_batches import TrainsInMicroBatches, steps_in_backward
from rlhf_plugins.trainers.steps.recovery import KEPT, SHARE, Cutting, Kept, Opaque

LEARNED = "learned"  # key of a batch: how many of its tokens have a label
WEIGHT = "weight"  # column of a row, and key of a batch
MEANS = ("entropy", "mean_token_accuracy")  # over the tokens of a batch, in TRL's log


@dataclass(frozen=True)
class Weighing:
    """A collator whose batches have the weights of their rows."""

    collate: Callable[[Sequence[Any]], dict[str, Any]]

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        """The collator's batch."""
        return {**self.collate(rows), WEIGHT: torch.tensor([row.get(WEIGHT, 1.0) for row in rows])}


@dataclass(frozen=True)
class Keeping:
    """A collator whose batches keep their rows, so that they can be cut, and count their labels."""

    collate: Callable[[Sequence[Any]], dict[str, Any]]

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        """The collator's batch."""
        return {**self.counted(rows), KEPT: Opaque(Kept(rows, self.counted))}

    def counted(self, rows: Sequence[Any]) -> dict[str, Any]:
        """The collator's batch, which cannot be cut."""
        batch = self.collate(rows)
        return {**batch, LEARNED: int((batch[LABELS][..., 1:] != IGNORED).sum())}  # a first token is not predicted


class SFTTrainer(TrainsInMicroBatches, SharesBatches, trl.SFTTrainer):
    """TRL's SFTTrainer; what it logs of a batch, it gathers itself. A batch with a router's loss of it is not cut."""

    data_collator: Any
    _signature_columns: Any
    autocasts = False
    cutting = Cutting(avoided="a smaller per_device_train_batch_size avoids it")

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.cuts = not steps_in_backward(self.args) and not self.aux_loss_enabled
        self._learned: list[int] = []  # tokens that each part of the batch learns
        if self._has_weights():
            self.data_collator = Weighing(self.data_collator)
        if processes.count() == 1:
            self.data_collator = Keeping(self.data_collator)
        else:  # it would leave out some processes' numbers of a last batch that is small
            self.accelerator.gather_for_metrics = self.accelerator.gather
        check_rows(self)
        use_fast_paths(self.model)
        train_in_float32(self.model)
        self.add_callback(AllocatesState())

    def noted(self) -> list[tuple[Any, str]]:
        """See `TrainsInMicroBatches`."""
        return [*super().noted(), (self, "_learned")]

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """The batch's loss, a mean over all its tokens; its gradients are accumulated."""
        if processes.count() > 1:
            theirs: Tensor = trl.SFTTrainer.training_step(self, model, inputs, num_items_in_batch)
            return theirs
        self._learned.clear()
        before = {name: len(self._metrics["train"].get(name, ())) for name in MEANS}
        items = inputs[LEARNED] if num_items_in_batch is None else num_items_in_batch
        loss = super().training_step(model, inputs, items)
        if len(self._learned) > 1:
            for name, start in before.items():
                self._join(self._metrics["train"][name], start)
        return loss

    def _join(self, means: list[float], start: int) -> None:
        """One mean in the place of those of the parts of a batch."""
        total = sum(self._learned)
        parts = zip(means[start:], self._learned, strict=True)
        means[start:] = [sum(mean * tokens for mean, tokens in parts) / total if total else 0.0]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> Any:
        """TRL's; in training sum_i w_i sum_t -log p_it / N, with w_i the weight of row i and N the tokens to learn."""
        self._learned.append(inputs.get(LEARNED, 0))
        theirs = {name: value for name, value in inputs.items() if name not in (KEPT, SHARE, LEARNED, WEIGHT)}
        if WEIGHT in inputs and self.model.training:
            model = _weighed(model, inputs[WEIGHT])
        return super().compute_loss(model, theirs, *given, **named)

    def _has_weights(self) -> bool:
        return WEIGHT in (getattr(self.train_dataset, "column_names", None) or ())

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if self._has_weights():
            self._signature_columns = list(dict.fromkeys([*self._signature_columns, WEIGHT]))

    def prediction_step(self, model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> tuple[Any, Any, Any]:
        """The batch's loss, weighted by this process's part of the tokens, outputs and labels."""
        loss, outputs, labels = super().prediction_step(model, inputs, *given, **named)
        if processes.count() > 1:
            read = inputs[LABELS] != IGNORED
            counts = processes.gathered((int(read.any(1).sum()), int(read[:, 1:].sum())))
            self._batch_rows = sum(rows for rows, _ in counts)
            own, total = int(read[:, 1:].sum()), sum(tokens for _, tokens in counts)
            loss = loss * (own * len(counts) / max(1, total))
        return loss, outputs, labels

    @property
    def gather_function(self) -> Any:
        """What Trainer gathers losses with."""
        return self.shared_losses if processes.count() > 1 else self._gather

    @gather_function.setter
    def gather_function(self, function: Any) -> None:
        self._gather = function


def _weighed(model: Any, weights: Tensor) -> Callable[..., Any]:  # (B,)
    """The model, whose log-probabilities of labels are multiplied by their rows' weights."""

    def forward(**inputs: Any) -> Any:
        outputs = model(**inputs)
        outputs.log_probs = outputs.log_probs * weights.to(outputs.log_probs).unsqueeze(1)
        return outputs

    return forward


def refuse_layout(args: Any) -> None:
    """Raises RunError for what TRL refuses of `packing`, `padding_free` and `max_length` together."""
    if args.packing and args.max_length is None:
        raise RunError("packing: rows are packed up to `max_length` tokens: write one")
    if args.padding_free and not args.packing and args.max_length is not None:
        raise RunError("padding_free: cuts no row at `max_length`: write `max_length: null`, or pack them")


def refuse_weights(args: Any, rows: Any) -> None:
    """Raises RunError where rows have weights that a training would not read.

    Of packed rows a batch does not show whose tokens it holds, and other losses are no sums of log-probabilities.
    """
    if WEIGHT not in rows.column_names:
        return
    asked = {"loss_type": args.loss_type != "nll", "label_smoothing_factor": args.label_smoothing_factor > 0}
    asked |= {"packing": args.packing, "padding_free": args.padding_free}
    if name := next((name for name, given in asked.items() if given), None):
        raise RunError(f"{name}: does not go with rows that have weights; read none with `columns: {{weight: null}}`")
