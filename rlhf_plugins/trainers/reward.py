"""Trains a reward model with any loss on shared-prompt batches: RewardTrainer with its batch and its loss replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import trl
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_plugins.data.branches import BranchBatch, collate, common_prefix
from rlhf_plugins.interfaces import RankedScores, RewardLoss
from rlhf_plugins.models.forward import takes_shared_rows
from rlhf_plugins.models.reward_model import RewardModel
from rlhf_plugins.trainers.arguments import mean_loss, trainable


@dataclass(frozen=True)
class Collator:
    """Rows of `chosen_ids`, `rejected_ids` and perhaps `margin` to a branch batch, chosen first, margin 0 if absent."""

    pad_id: int
    shared: bool

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """-> the tensors of a BranchBatch, and margin (groups,)."""
        groups = [common_prefix([row["chosen_ids"], row["rejected_ids"]]) for row in rows]
        margins = torch.tensor([row.get("margin") or 0.0 for row in rows])
        return {**collate(groups, self.pad_id, self.shared), "margin": margins}


class RewardTrainer(trl.RewardTrainer):
    """RewardTrainer for a RewardModel and a reward loss.

    The data set has TRL's columns; TRL tokenizes it and drops pairs longer than `args.max_length`, which `left_out`
    counts.
    """

    def __init__(
        self,
        model: RewardModel,
        loss: RewardLoss,
        args: trl.RewardConfig,
        train: Dataset,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        collator = Collator(tokenizer.pad_token_id, takes_shared_rows(model.trunk))
        super().__init__(
            model=model, args=args, data_collator=collator, train_dataset=train, processing_class=tokenizer
        )
        trainable(self)
        self._reward_loss = loss
        self.left_out = {"pair longer than max_length": len(train) - len(self.train_dataset)}

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """Mean loss of the batch's pairs."""
        scores = model(BranchBatch.from_inputs(inputs)).float().view(-1, 2)  # (groups, 2)
        ranked = RankedScores(scores, inputs["margin"])
        loss = mean_loss(self._reward_loss, ranked, len(scores), self.state.global_step)
        self._record(ranked)
        return (loss, {"scores": scores}) if return_outputs else loss

    @torch.no_grad()
    def _record(self, ranked: RankedScores) -> None:
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["accuracy"].append((ranked.chosen > ranked.rejected).float().mean().item())
        metrics["reward_margin"].append((ranked.chosen - ranked.rejected).mean().item())
        metrics["reward_mean"].append(ranked.scores.mean().item())
