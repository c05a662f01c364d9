"""The reference of a training on preferences: its log-probabilities, at each batch or once before training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset, IterableDataset
from peft import PeftModel
from torch import Tensor
from trl.trainer.utils import use_adapter

from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.data.batches.branches import TOKENS_PER_BATCH, BranchBatch, by_prompt
from rlhf_plugins.engine.log_probs import response_logps
from rlhf_plugins.engine.passes import Passes, rows_of
from rlhf_plugins.engine.progress import counted
from rlhf_plugins.engine.weights.loading import base_weights
from rlhf_plugins.reward_models.score_cache import cached_in_shares, weights_identity
from rlhf_plugins.trainers.preference.batch import REFERENCE, Collator, refuse_none
from rlhf_plugins.trainers.steps.micro_batches import MICRO_BATCHES
from rlhf_plugins.trainers.zero import HidesLaunch


class ReadsReference(HidesLaunch, trl.DPOTrainer):
    """A DPOTrainer whose reference the engine computes, if there is no `obstacle`.

    TRL's constructor fills in the columns of the reference before anything is known about the engine. So they are
    filled in later, by `fill_in_reference`.
    """

    data_collator: Collator
    train_dataset: Any
    eval_dataset: Any
    obstacle: str | None = None  # why this training goes TRL's own way; None where the engine computes it
    reference_cache: Path | None = None
    _reads_reference = True  # whether the loss does; one that does not has none
    _reference_identity = ""
    _reference_tokens: int | None = TOKENS_PER_BATCH  # laid out at once

    def fill_in_reference(self) -> None:
        """The columns of all data sets, if the configuration asks for them."""
        theirs = self.obstacle is not None and self.is_fsdp_enabled
        if not self.args.precompute_ref_log_probs or not self._reads_reference or theirs:
            return
        if self.reference_cache is not None and not self._reference_identity:
            self._reference_identity = self._identity()
        size, sizes = self.args.precompute_ref_batch_size, self.args
        train, rest = size or sizes.per_device_train_batch_size, size or sizes.per_device_eval_batch_size
        self.train_dataset = self._precompute_ref_logps(self.train_dataset, "train", train)
        if isinstance(self.eval_dataset, dict):
            given = self.eval_dataset.items()
            self.eval_dataset = {name: self._precompute_ref_logps(each, name, rest) for name, each in given}
        elif self.eval_dataset is not None:
            self.eval_dataset = self._precompute_ref_logps(self.eval_dataset, "eval", rest)

    def forget_reference(self) -> None:
        """Frees what TRL's constructor made of a reference that nothing reads."""
        self.precompute_ref_logps = False
        if self._adapter() is not None:
            self.model.delete_adapter(self._adapter())

    def _identity(self) -> str:
        """A hash of the reference. It must be taken before training, which may change the weights that it is of."""
        model, weights = self.ref_model or self.model, None
        if model is self.model and isinstance(model, PeftModel) and self._adapter() is None:
            model, weights = model.get_base_model(), base_weights(model)
        return weights_identity(model, self.args.bf16, self.args.fp16, weights=weights)

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """The data set with the reference's log-probabilities as columns; remembered ones are not computed again."""
        if not self.settled and not self.is_fsdp_enabled:
            return dataset
        if isinstance(dataset, IterableDataset) or self.obstacle is not None:
            return super()._precompute_ref_logps(dataset, name, batch_size)
        refuse_none(dataset, self.args)
        if self.reference_cache is None:
            return super()._precompute_ref_logps(dataset, name, batch_size)
        for column, values in zip(REFERENCE, self._remembered(self.reference_cache, dataset, name), strict=True):
            dataset = dataset.add_column(column, values)
        return dataset

    def _remembered(self, file: Path, dataset: Dataset, name: str) -> tuple[list[float], list[float]]:
        """The reference's log-probabilities of chosen and rejected responses, from a file or computed."""
        sides = [side for row in dataset for side in self.data_collator.sides(row)]
        prompts, responses = [list(side.prompt) for side in sides], [list(side.response) for side in sides]
        samples = Samples([""] * len(sides), [""] * len(sides), prompts, responses)
        asker = f"{Path(self.args.output_dir).name} {name}"  # a stage that goes on before its first checkpoint
        found = cached_in_shares(file, self._reference_identity, samples, self._summed, asker)
        kept = [value if side.scored and value is not None else 0.0 for value, side in zip(found, sides, strict=True)]
        return kept[::2], kept[1::2]

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
        """The reference's log-probabilities of chosen and rejected, each (pairs,); TRL calls it before training."""
        if self.obstacle is not None:
            theirs: tuple[Tensor, ...] = super().compute_ref_log_probs(model, inputs)
            return theirs
        with self._reference() as reference:
            found = [self._pair_logps(reference, part) for part in inputs.get(MICRO_BATCHES, [inputs])]
        return torch.cat(found).unbind(1)

    def _reference_logps(self, inputs: dict[str, Any]) -> Tensor:
        """(pairs, 2), as they were computed before training, or computed now.

        A data set may have such columns of another reference: without `precompute_ref_log_probs` TRL reads none either.
        """
        known = [inputs[name] for name in REFERENCE if name in inputs] if self.args.precompute_ref_log_probs else []
        return torch.stack(known or list(self.compute_ref_log_probs(self.model, inputs)), dim=1)

    def _summed(self, samples: Samples) -> list[float]:
        """The reference's log-probabilities of responses, in their order."""
        groups, collator = by_prompt(samples.prompt_ids, samples.response_ids), self.data_collator
        with self._reference() as reference:

            def summed(batch: BranchBatch, _: slice) -> list[float]:
                return list(response_logps(reference, batch).logps.sum(1).tolist())

            tokens = self._reference_tokens or TOKENS_PER_BATCH
            found = Passes(reference, collator.layout, collator.pad_id, tokens).over(groups, summed)
            done = counted(found, "reference", len(samples.responses), "responses", rows_of)
            return [value for _, part in done for value in part]

    @contextmanager
    def _reference(self) -> Iterator[Any]:
        """The model that is the reference, without gradients and dropout."""
        reference = self.ref_model or self.model
        training = reference.training
        shared = self.ref_model is None and isinstance(self.model, PeftModel)
        adapter = use_adapter(self.model, self._adapter()) if shared else nullcontext()
        with torch.no_grad(), self.accelerator.autocast(), adapter:
            reference.eval()
            try:
                yield reference
            finally:
                reference.train(training)

    def _adapter(self) -> str | None:
        """The adapter that TRL copied as the reference; None where the model without adapters is the reference."""
        return "ref" if "ref" in getattr(self.model, "peft_config", {}) else None

    @staticmethod
    def _pair_logps(model: Any, inputs: dict[str, Any]) -> Tensor:
        """(pairs, 2)"""
        found = response_logps(model, BranchBatch.from_inputs(inputs))
        return pair_sums_of(found.logps, inputs)


def pair_sums_of(logps: Tensor, inputs: dict[str, Any]) -> Tensor:
    """Log-probabilities of tokens (2 pairs, T) summed over each response, (pairs, 2); of a filler 0."""
    return logps.sum(1).masked_fill(~inputs["scored"], 0.0).view(-1, 2)
