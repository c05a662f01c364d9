"""TRL's SFTTrainer as it is, in one process or several: a loss is the mean over the tokens of all processes' batch."""

from __future__ import annotations

from typing import Any

import trl

from rlhf_plugins.contract import processes
from rlhf_plugins.trainers.shares import IGNORED, LABELS, SharesBatches


class SFTTrainer(SharesBatches, trl.SFTTrainer):
    """TRL's SFTTrainer; what it logs of a batch, it gathers itself."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        if processes.count() > 1:  # it would leave out some processes' numbers of a last batch that is small
            self.accelerator.gather_for_metrics = self.accelerator.gather

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
