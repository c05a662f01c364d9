"""Trains a policy on preference pairs with any loss: DPOTrainer with its batch, forward pass and loss replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_plugins.data.branches import BranchBatch, Layout, PromptBranches, collate
from rlhf_plugins.interfaces import PairLogps, PreferenceLoss
from rlhf_plugins.models.forward import response_logps
from rlhf_plugins.models.guards import asked
from rlhf_plugins.models.probing import layout_of
from rlhf_plugins.trainers.arguments import mean_loss, trainable

REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")


@dataclass(frozen=True)
class Collator:
    """Rows of `prompt_ids`, `chosen_ids`, `rejected_ids` to a branch batch, chosen first, cut at `max_length` tokens.

    As in TRL, `keep_start` cuts the end of a response and `keep_end` the start of a prompt.
    """

    pad_id: int
    max_length: int | None
    truncation_mode: str
    layout: Layout

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """-> the tensors of a BranchBatch and, where the rows have them, the reference's log-probabilities (pairs,)."""
        groups = [group for row in rows for group in self._cut(row)]
        batch = collate(groups, self.pad_id, self.layout)
        known = {name: torch.tensor([row[name] for row in rows]) for name in REFERENCE if name in rows[0]}
        return {**batch, **known}

    def _cut(self, row: Mapping[str, Any]) -> list[PromptBranches]:
        """One group of two branches, or two of one where cutting from the start leaves them different prompts.

        Where a response alone is too long, the first token that is left of it is only read, as in TRL.
        """
        prompt, branches = row["prompt_ids"], [row["chosen_ids"], row["rejected_ids"]]
        if self.max_length is None or len(prompt) + max(map(len, branches)) <= self.max_length:
            return [PromptBranches(prompt, branches)]
        if self.truncation_mode == "keep_start":
            return [PromptBranches(prompt, [branch[: self.max_length - len(prompt)] for branch in branches])]
        return [self._end(prompt, branch) for branch in branches]

    def _end(self, prompt: Sequence[int], branch: Sequence[int]) -> PromptBranches:
        assert self.max_length is not None
        end = [*prompt, *branch][-self.max_length :]
        read = max(1, len(end) - len(branch))
        return PromptBranches(end[:read], [end[read:]])


class PreferenceTrainer(trl.DPOTrainer):
    """DPOTrainer for a preference loss; the prompt is computed once for both responses.

    The reference is the model with its adapter off, or `reference` where all weights are trained. TRL tokenizes the
    data set and drops rows whose prompt leaves no room for a response; `left_out` counts these and the cut ones.
    """

    def __init__(
        self,
        model: Any,
        loss: PreferenceLoss,
        args: trl.DPOConfig,
        train: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        adapter: LoraConfig | None = None,
        reference: Any = None,
    ) -> None:
        collator = Collator(tokenizer.pad_token_id, args.max_length, args.truncation_mode, layout_of(model, reference))
        self._preference_loss = loss
        super().__init__(
            model=model,
            ref_model=reference,
            args=args,
            data_collator=collator,
            train_dataset=train,
            processing_class=tokenizer,
            peft_config=adapter,
        )
        trainable(self)
        self.left_out = {
            "prompt fills max_length": len(train) - len(self.train_dataset),
            "cut at max_length": sum(map(self._is_cut, self.train_dataset)),
        }

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """Mean loss of the batch's pairs."""
        with self.accelerator.autocast():
            policy = self._pair_logps(self.model, inputs)  # (pairs, 2)
        reference = self._reference_logps(inputs)
        lengths = BranchBatch.from_inputs(inputs).lengths.view(-1, 2)
        logps = PairLogps(*policy.unbind(1), *reference.unbind(1), *lengths.unbind(1))
        losses = asked(self._preference_loss, logps, shape=(len(policy),))
        loss = mean_loss(losses, self._preference_loss, logps, self.state.global_step)
        self._record(logps)
        return (loss, {"logps": policy}) if return_outputs else loss

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
        """The reference's log-probabilities of chosen and rejected, each (pairs,); TRL calls it before training."""
        with torch.no_grad(), self.accelerator.autocast(), self._adapter_off():
            return self._pair_logps(self.ref_model or self.model, inputs).unbind(1)

    def _reference_logps(self, inputs: dict[str, Any]) -> Tensor:
        known = [inputs[name] for name in REFERENCE if name in inputs]
        return torch.stack(known or list(self.compute_ref_log_probs(self.model, inputs)), dim=1)

    def _adapter_off(self) -> Any:
        alone = self.ref_model is None and hasattr(self.model, "disable_adapter")
        return self.model.disable_adapter() if alone else torch.no_grad()

    @staticmethod
    def _pair_logps(model: Any, inputs: dict[str, Any]) -> Tensor:
        return response_logps(model, BranchBatch.from_inputs(inputs)).logps.sum(1).view(-1, 2)

    def _is_cut(self, row: Mapping[str, Any]) -> bool:
        longest = len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        return self.args.max_length is not None and longest > self.args.max_length

    @torch.no_grad()
    def _record(self, logps: PairLogps) -> None:
        metrics = self._metrics["train" if self.model.training else "eval"]
        chosen, rejected = logps.chosen - logps.ref_chosen, logps.rejected - logps.ref_rejected
        metrics["accuracy"].append((chosen > rejected).float().mean().item())
        metrics["log_ratio_chosen"].append(chosen.mean().item())
        metrics["log_ratio_rejected"].append(rejected.mean().item())
