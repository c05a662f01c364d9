"""Trains a policy on responses with fixed advantages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from rlhf_plugins.contract.interfaces import PolicyLoss, Reduction
from rlhf_plugins.data.batches.branches import BranchBatch, Layout, PromptBranches, collate
from rlhf_plugins.engine.log_probs import response_logps
from rlhf_plugins.engine.probing import layout_of
from rlhf_plugins.engine.weights.loading import use_fast_paths
from rlhf_plugins.trainers.arguments import finite, prepare


@dataclass(frozen=True)
class Collator:
    """Rows of `prompt_ids`, `branch_ids` and `advantages` as a branch batch."""

    pad_id: int
    layout: Layout

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """-> the tensors of a BranchBatch, and `advantages` (B,)."""
        groups = [PromptBranches(row["prompt_ids"], row["branch_ids"]) for row in rows]
        advantages = [advantage for row in rows for advantage in row["advantages"]]
        return {**collate(groups, self.pad_id, self.layout), "advantages": torch.tensor(advantages)}


class OfflineTrainer(Trainer):
    """Trains a policy on a fixed set of responses, each with an advantage; a batch is so many prompts.

    Args:
        model: a causal language model, plain or PEFT.
        args: transformers' TrainingArguments.
        policy_loss: one that takes responses of any policy, which its trait `off_policy` says.
        reduction: reduces the losses of a batch's tokens; accumulated batches count alike, whatever their tokens.
        named: Trainer's other arguments; `train_dataset` holds the rows of `data/batches/logged.py`.

    Raises:
        RunError: it was launched in several processes, or has too few rows for a batch.
    """

    def __init__(self, model: Any, args: Any, *, policy_loss: PolicyLoss, reduction: Reduction, **named: Any) -> None:
        args.remove_unused_columns = False
        use_fast_paths(model)
        pad_id = named["processing_class"].pad_token_id
        super().__init__(model, args, data_collator=Collator(pad_id, layout_of(model)), **named)
        self.model_accepts_loss_kwargs = False  # so that losses of accumulated batches are averaged
        self.policy_loss, self.reduction = policy_loss, reduction
        prepare(self)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """The reduced loss of the batch's response tokens."""
        batch = BranchBatch.from_inputs(inputs)
        with self.accelerator.autocast():
            logps = response_logps(self.model, batch).logps  # (B, T)
        advantages = inputs["advantages"].unsqueeze(1).expand_as(logps)
        mask = batch.response_mask()
        more = (mask,) if self.policy_loss.reads_mask else ()
        losses = self.policy_loss(logps, advantages.contiguous(), *more)
        loss = finite(self.reduction(losses, mask), self.state.global_step, "loss")
        return (loss, None) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> tuple[Tensor, None, None]:
        """The batch's loss."""
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(inputs)), None, None

    def stateful(self) -> dict[str, Any]:
        """What a checkpoint asks for a state beside the trainer's."""
        return {"policy_loss": self.policy_loss, "reduction": self.reduction}
