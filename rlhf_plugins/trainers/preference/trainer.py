"""TRL's DPOTrainer for any preference loss: its constructor, data and metrics, with our forward pass where it fits."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import trl
from torch import Tensor

from rlhf_plugins.arithmetic import masked
from rlhf_plugins.contract import processes
from rlhf_plugins.contract.interfaces import PreferenceLoss
from rlhf_plugins.contract.records import PairLogps
from rlhf_plugins.data.batches.branches import BranchBatch
from rlhf_plugins.engine.log_probs import response_logps
from rlhf_plugins.engine.probing import layout_of
from rlhf_plugins.engine.weights.loading import use_fast_paths
from rlhf_plugins.errors import RunError
from rlhf_plugins.trainers.arguments import acting, check_rows, make_ready, mean_loss
from rlhf_plugins.trainers.constructor import joint_signature, split_arguments
from rlhf_plugins.trainers.preference.batch import FILLED, OF_PAIRS, Collator, separate, with_room
from rlhf_plugins.trainers.preference.engine_or_trl import (
    PreferenceOptions,
    check,
    loss_of,
    obstacle_of,
    read_by,
    refuse_read,
    without_reference,
)
from rlhf_plugins.trainers.preference.metrics import Means, label_sums, pair_sums, token_sums, unit
from rlhf_plugins.trainers.preference.reference import ReadsReference, pair_sums_of
from rlhf_plugins.trainers.steps.batch_mates import with_mates
from rlhf_plugins.trainers.steps.data_parallel import SharesBatches, counts, through
from rlhf_plugins.trainers.steps.micro_batches import (
    MICRO_BATCHES,
    TrainsInMicroBatches,
    by_share,
    evened,
    token_limit,
    uncounted,
)
from rlhf_plugins.trainers.steps.recovery import SHARE
from rlhf_plugins.trainers.zero import hand_options_on

logger = logging.getLogger(__name__)


class PreferenceTrainer(TrainsInMicroBatches, SharesBatches, ReadsReference):
    """TRL's DPOTrainer, with the fields of `PreferenceOptions` as keywords besides its own arguments.

    The engine computes the prompt of a pair once for both responses. What it does not compute goes TRL's own way, and
    one line of the log says so; `obstacle` then names the reason.

    Args:
        given: DPOTrainer's arguments, in its order.
        named: DPOTrainer's arguments by name, and ours.

    Raises:
        RunError: `loss` or `reference_cache` is given, but the engine does not compute what another argument asks for.
    """

    __signature__ = joint_signature(trl.DPOTrainer, PreferenceOptions)

    def __init__(self, *given: Any, **named: Any) -> None:
        arguments, own = split_arguments(trl.DPOTrainer, PreferenceOptions, given, named)
        check(own, arguments)
        self._means, self._tokens, self._reads_ours = Means(), 0, own.loss is not None
        self.reference_cache = None if own.reference_cache is None else Path(own.reference_cache)
        self._reference_identity, self._reference_tokens = own.reference_identity or "", own.tokens_per_batch
        self._reads_reference = own.loss is None or own.loss.reads_reference
        with nullcontext() if self._reads_reference else without_reference(arguments):
            super().__init__(**read_by(own).checked(arguments))
        if not self._reads_reference:
            self.forget_reference()
        loss = own.loss or loss_of(self.args)
        self.obstacle, self.settled = obstacle_of(self, arguments, loss), True
        hand_options_on(self)
        if self.obstacle is None and loss is not None:
            self._take_over(loss, own.tokens_per_batch)
        elif own.loss is not None or own.reference_cache is not None:
            asked = "loss" if own.loss is not None else "reference_cache"
            raise RunError(f"{asked}= needs the engine, which does not compute {self.obstacle}")
        else:
            logger.warning("%s goes TRL's own way: %s", type(self).__name__, self.obstacle)
        self.fill_in_reference()
        if self.obstacle is None:
            check_rows(self)

    def _take_over(self, loss: PreferenceLoss, tokens: int | None) -> None:
        """Makes the engine compute this training."""
        logger.info("%s trains on the engine", type(self).__name__)
        args = self.args
        self._preference_loss, self._unit = acting(loss), unit(loss)
        for own in (self.model, self.ref_model):
            if own is not None:
                use_fast_paths(own)
        layout, limit = layout_of(self.model, self.ref_model), token_limit(tokens, args, loss)
        self.cuts = token_limit(1, args, loss) is not None
        pad_id = self.processing_class.pad_token_id
        self.data_collator = Collator(pad_id, args.max_length, args.truncation_mode, layout, limit)
        make_ready(self)

    def noted(self) -> list[tuple[Any, str]]:
        """See `TrainsInMicroBatches`."""
        return [*super().noted(), (self._means, "_sums"), (self._means, "_rows"), (self, "_tokens")]

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **more: Any) -> Any:
        """Mean loss of the batch's pairs."""
        if self.obstacle is not None:
            return super().compute_loss(model, inputs, return_outputs, **more)
        loss = by_share(through(model, self.model, lambda: self._loss(inputs)), inputs)
        if SHARE not in inputs:
            self._note_batch()
        return (loss, self._outputs([inputs])[0]) if return_outputs else loss

    def _loss(self, inputs: dict[str, Any]) -> Tensor:
        """The mean over the pairs of a batch, whose numbers are kept for the log."""
        batch = BranchBatch.from_inputs(inputs)
        scored = batch.response_mask() & inputs["scored"].unsqueeze(1)  # (2 pairs, T)
        with self.accelerator.autocast():
            found = response_logps(self.model, batch, entropy=self._preference_loss.reads_entropy, observe=True)
        policy = pair_sums_of(found.logps, inputs)  # (pairs, 2)
        reference = self._reference_logps(inputs) if self._reads_reference else torch.full_like(policy, torch.nan)
        parts = (*policy.unbind(1), *reference.unbind(1), *inputs["lengths"].view(-1, 2).unbind(1))
        more = {name: inputs[name] for name in OF_PAIRS if name in inputs}
        if self._preference_loss.reads_entropy:
            assert found.entropies is not None
            more["entropies"] = masked.mean(found.entropies, scored, dim=1).view(-1, 2)
        logps = PairLogps.of(*parts, **more)
        if self._preference_loss.uses_batch_mates:
            known, own = with_mates(logps, inputs)
            losses = self._preference_loss(known)[own]
        else:
            losses = self._preference_loss(logps)
        if not self._reads_reference:
            refuse_read(losses, self._preference_loss, policy)
        loss = mean_loss(losses, self._preference_loss, logps, self.state.global_step)
        if not counts(inputs):
            return loss
        sums = label_sums if self._preference_loss.unpaired else pair_sums
        tokens = token_sums(found, scored)
        if self._preference_loss.unpaired:  # the second response is another prompt's
            del tokens["logits/rejected"]
        self._means.add(sums(logps, self._unit))
        self._means.add(tokens, rows=len(losses))
        if self.model.training:
            self._tokens += batch.tokens
        return loss

    def stateful(self) -> dict[str, Any]:
        """What a checkpoint asks for a state beside the trainer's."""
        return {"loss": self._preference_loss} if self.obstacle is None else {}

    def training_step(self, model: Any, inputs: dict[str, Any], *given: Any) -> Tensor:
        """The batch's loss; its gradients are accumulated."""
        loss = super().training_step(model, inputs, *given)
        if self.obstacle is None:
            self._note_batch()
        return loss

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """The batch's loss; where a metric asks for them, logits and token ids in TRL's layout, computed again."""
        if self.obstacle is not None:
            theirs: tuple[Any, Any, Any] = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
            return theirs
        self.note_rows(inputs)
        prepared = self._prepare_inputs(inputs)
        own = prepared.get(MICRO_BATCHES, [prepared])
        parts = evened(own, uncounted)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = torch.stack([self.compute_loss(model, part) for part in parts]).sum()
            self._note_batch()
            if prediction_loss_only:
                return loss, None, None
            outputs, ids = self._outputs(own)
        return loss, outputs.logits, ids

    @property
    def gather_function(self) -> Any:
        """What Trainer gathers losses, logits and ids with; of a last batch it keeps one number per pair.

        Logits and ids are two rows per pair, and so are kept whole, where TRL loses some.
        """
        if self.obstacle is not None:
            return self._gather
        if processes.count() > 1:
            return self.shared_losses
        return lambda values, **options: values if values.dim() > 1 else self._gather(values, **options)

    @gather_function.setter
    def gather_function(self, function: Any) -> None:
        self._gather = function

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """The trainer's estimate, of the tokens that are computed."""
        return sum(trl.DPOTrainer.floating_point_ops(self, part) for part in inputs.get(MICRO_BATCHES, [inputs]))

    def left_out(self, rows: int) -> dict[str, int]:
        """How many of the rows that were given TRL left out, and how many of the others are cut."""
        return {
            FILLED: rows - len(self.train_dataset),
            "cut at max_length": sum(map(self.data_collator.is_cut, self.train_dataset)),
        }

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        """TRL's; rows that have tokens already only lose those whose prompt leaves no room for a response."""
        if "chosen_ids" not in (getattr(dataset, "column_names", None) or ()):
            return super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        return with_room(dataset, args)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if self._reads_ours:
            self._signature_columns: list[str] = [*{*self._signature_columns, *OF_PAIRS}]

    @torch.no_grad()
    def _outputs(self, parts: list[dict[str, Any]]) -> tuple[Any, Tensor]:
        """The model's outputs of a whole batch in TRL's layout, and its token ids."""
        rows = separate(parts, self.data_collator.pad_id)
        with self.accelerator.autocast():
            return self.model(**rows, use_cache=False), rows["input_ids"]

    def _note_batch(self) -> None:
        """Adds the means of a batch, of all processes, to those that are logged.

        A training on pairs logs the mean of its batches' means, as of its losses; elsewhere a batch counts by its rows.
        """
        metrics = self._metrics["train" if self.model.training else "eval"]
        self._total_train_tokens += sum(processes.gathered(self._tokens))
        self._tokens = 0
        by_rows = not self.model.training or self._preference_loss.unpaired
        for name, (mean, rows) in self._means.take().items():
            metrics[name] += [mean] * (rows if by_rows else 1)
            metrics["num_tokens"] = [self._total_train_tokens]
