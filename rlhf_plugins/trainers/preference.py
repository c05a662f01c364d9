"""Trains a policy on preference pairs with any loss: DPOTrainer with its batch, forward pass and loss replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from rich.console import Console
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_plugins.contract.interfaces import PreferenceLoss
from rlhf_plugins.contract.records import PairLogps
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.data.branches import (
    TOKENS_PER_BATCH,
    BranchBatch,
    Layout,
    PromptBranches,
    by_prompt,
    collate,
    within_budget,
)
from rlhf_plugins.engine.log_probs import response_logps
from rlhf_plugins.engine.probing import layout_of
from rlhf_plugins.errors import RunError
from rlhf_plugins.reward_models.score_cache import ScoreCache, weights_identity
from rlhf_plugins.trainers.arguments import mean_loss, prepare
from rlhf_plugins.trainers.micro_batches import (
    MICRO_BATCHES,
    Row,
    TrainsInMicroBatches,
    by_share,
    in_micro_batches,
    token_limit,
)

REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
NUMBERS = (*REFERENCE, "probability")  # columns of a row that a batch holds as tensors, where the rows have them


@dataclass(frozen=True)
class PreferenceOptions:
    """Options of a training that TRL's configuration lacks.

    Without a `reference`, the model with its adapter off is the reference. `remembered` is a file that keeps the
    reference's log-probabilities for other losses and later runs.
    """

    reference: Any = None
    tokens_per_batch: int | None = None  # most tokens in memory at once, padding included
    remembered: Path | None = None


@dataclass(frozen=True)
class Collator:
    """Rows of `prompt_ids`, `chosen_ids`, `rejected_ids` to a branch batch, chosen first, cut at `max_length` tokens.

    As in TRL, `keep_start` cuts the end of a response and `keep_end` the start of a prompt.
    """

    pad_id: int
    max_length: int | None
    truncation_mode: str
    layout: Layout
    tokens: int | None = None  # most tokens of a micro-batch

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """-> the tensors of a BranchBatch and, where the rows have them, those of `NUMBERS` (pairs,)."""
        return in_micro_batches(rows, self.groups, self.tokens, self.layout, self._batch)

    def _batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        batch = collate([group for row in rows for group in self.groups(row)], self.pad_id, self.layout)
        known = {name: torch.tensor([row[name] for row in rows]) for name in NUMBERS if name in rows[0]}
        return {**batch, **known}

    def groups(self, row: Row) -> list[PromptBranches]:
        """One group of two branches, or two of one where cutting from the start leaves them different prompts.

        Where a response is too long by itself, the first token that is left of it counts as prompt, as in TRL.
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


class PreferenceTrainer(TrainsInMicroBatches, trl.DPOTrainer):
    """DPOTrainer for a preference loss; the prompt is computed once for both responses.

    TRL tokenizes the data set and drops rows whose prompt leaves no room for a response; `left_out` counts these, and
    the rows that were cut.
    """

    def __init__(
        self,
        model: Any,
        loss: PreferenceLoss,
        args: trl.DPOConfig,
        train: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        adapter: LoraConfig | None = None,
        options: PreferenceOptions = PreferenceOptions(),  # noqa: B008 (frozen)
    ) -> None:
        layout = layout_of(model, options.reference)
        tokens = token_limit(options.tokens_per_batch, args, loss)
        collator = Collator(tokenizer.pad_token_id, args.max_length, args.truncation_mode, layout, tokens)
        self._preference_loss, self._remembered = loss, options.remembered
        self._reference_identity = ""
        if options.remembered is not None and args.precompute_ref_log_probs:
            self._reference_identity = weights_identity(options.reference or model, args.bf16, args.fp16)
        super().__init__(
            model=model,
            ref_model=options.reference,
            args=args,
            data_collator=collator,
            train_dataset=train,
            processing_class=tokenizer,
            peft_config=adapter,
        )
        prepare(self)
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
        parts = (*policy.unbind(1), *reference.unbind(1), *lengths.unbind(1))
        logps = PairLogps.of(*parts, probability=inputs.get("probability"))
        losses = self._preference_loss(logps)
        loss = mean_loss(losses, self._preference_loss, logps, self.state.global_step)
        self._record(logps)
        loss = by_share(loss, inputs)
        return (loss, {"logps": policy}) if return_outputs else loss

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns: list[str] = [*{*self._signature_columns, "probability"}]

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
        """The reference's log-probabilities of chosen and rejected, each (pairs,); TRL calls it before training."""
        with self._reference() as reference:
            found = [self._pair_logps(reference, part) for part in inputs.get(MICRO_BATCHES, [inputs])]
        return torch.cat(found).unbind(1)

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """The data set with the reference's log-probabilities as columns; remembered ones are not computed again."""
        if len(dataset) == 0:
            raise RunError(f"every prompt fills max_length ({self.args.max_length}): write a larger one, or null")
        if self._remembered is None:
            return super()._precompute_ref_logps(dataset, name, batch_size)
        rows = list(dataset)
        groups = [group for row in rows for group in self.data_collator.groups(row)]
        branches = [(group.prompt, branch) for group in groups for branch in group.branches]
        prompts, responses = map(list, zip(*branches, strict=True))
        samples = Samples([""] * len(prompts), [""] * len(prompts), prompts, responses)
        with closing(ScoreCache(self._remembered)) as cache:
            found = cache.scores(self._reference_identity, samples, self._summed)
        columns = zip(REFERENCE, (found[::2], found[1::2]), strict=True)
        for column, values in columns:
            dataset = dataset.add_column(column, values)
        return dataset

    def _summed(self, samples: Samples) -> list[float]:
        """The reference's log-probabilities of responses, in their order."""
        layout, pad_id = self.data_collator.layout, self.data_collator.pad_id
        batches = list(within_budget(by_prompt(samples.prompt_ids, samples.response_ids), TOKENS_PER_BATCH, layout))
        found: list[float] = []
        with self._reference() as reference:
            for batch in track(
                batches, "reference", console=Console(stderr=True), transient=True, disable=len(batches) < 3
            ):
                inputs = self._prepare_inputs(collate(batch, pad_id, layout))
                found += response_logps(reference, BranchBatch.from_inputs(inputs)).logps.sum(1).tolist()
        return found

    def _reference_logps(self, inputs: dict[str, Any]) -> Tensor:
        known = [inputs[name] for name in REFERENCE if name in inputs]
        return torch.stack(known or list(self.compute_ref_log_probs(self.model, inputs)), dim=1)

    @contextmanager
    def _reference(self) -> Iterator[Any]:
        """The policy with its adapter off, or a model of its own, without gradients and dropout."""
        reference = self.ref_model or self.model
        training = reference.training
        shared = self.ref_model is None and hasattr(self.model, "disable_adapter")
        with torch.no_grad(), self.accelerator.autocast(), self.model.disable_adapter() if shared else nullcontext():
            reference.eval()
            try:
                yield reference
            finally:
                reference.train(training)

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
        metrics["accuracy"] += (chosen > rejected).float().tolist()
        metrics["log_ratio_chosen"] += chosen.tolist()
        metrics["log_ratio_rejected"] += rejected.tolist()
