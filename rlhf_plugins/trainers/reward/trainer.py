"""Trains a reward model with any loss on pairs or judged groups: TRL's RewardTrainer, computed by the engine."""

from __future__ import annotations

import logging
from collections import Counter
from copy import copy
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trl
from datasets import Dataset
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from rlhf_plugins.arithmetic.ranking import comparisons, mean_over_pairs
from rlhf_plugins.contract import processes
from rlhf_plugins.contract.records import RankedScores
from rlhf_plugins.data.batches.branches import BranchBatch, Layout
from rlhf_plugins.data.batches.numeric import in_batch
from rlhf_plugins.data.batches.ranked import Collator, RankedRows, judged
from rlhf_plugins.engine.compiled import compile_layers
from rlhf_plugins.engine.out_of_memory import attempted, release_memory
from rlhf_plugins.engine.probing import layout_of
from rlhf_plugins.engine.weights.loading import without_repacking
from rlhf_plugins.errors import RunError
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.trainers.arguments import check_one_process, mean_loss, prepare
from rlhf_plugins.trainers.constructor import joint_signature, split_arguments
from rlhf_plugins.trainers.learning_rates import give_rate
from rlhf_plugins.trainers.reward.classifier import install, obstacle_of, saving_head, scored_by
from rlhf_plugins.trainers.reward.losses import Losses
from rlhf_plugins.trainers.reward.options import RewardOptions, read_by, refuse_at_odds
from rlhf_plugins.trainers.reward.pairs import COLUMNS, ROW, Fitting, Pairs, columns_of, examples, refuse_unread
from rlhf_plugins.trainers.steps.batch_mates import with_mates
from rlhf_plugins.trainers.steps.data_parallel import SharesBatches, counts, through
from rlhf_plugins.trainers.steps.draws import Draws
from rlhf_plugins.trainers.steps.micro_batches import TrainsInMicroBatches, by_share, token_limit

logger = logging.getLogger(__name__)
Scored = tuple[Tensor, Tensor, Tensor]  # rewards of a part of a batch, which of them there are, gaps of its pairs


class RewardTrainer(TrainsInMicroBatches, SharesBatches, trl.RewardTrainer):
    """TRL's RewardTrainer for any reward loss, head and pooling; a prompt is computed once for all its responses.

    It takes TRL's arguments in TRL's order, TRL's rows, and the fields of `RewardOptions` by keyword. `model` may also
    be a `RewardModel`, and a data set what `ranked_rows` made. Where the engine cannot help, it goes TRL's own way, and
    logs why; so it does for a `data_collator`.

    Raises:
        RunError: an argument of ours asks for the engine where it cannot help.
    """

    train_dataset: Any
    __signature__ = joint_signature(trl.RewardTrainer, RewardOptions)

    def __init__(self, *given: Any, **named: Any) -> None:
        theirs, own = split_arguments(trl.RewardTrainer, RewardOptions, given, named)
        refuse_at_odds(theirs, own)
        if theirs.get("peft_config") is not None:
            theirs["peft_config"] = saving_head(theirs["peft_config"])
        rows = theirs.get("train_dataset")
        self._dimensions = rows.dimensions if isinstance(rows, RankedRows) else ()
        for name in ("train_dataset", "eval_dataset"):
            if isinstance(theirs.get(name), RankedRows):
                theirs[name] = theirs[name].dataset
        theirs = read_by(own, theirs.get("model")).checked(theirs)
        self._draws: Draws | None = None
        self._repeats: Tensor | None = None
        self._parts: list[Scored] = []  # scores of the parts of the batch so far
        self._observed: list[tuple[list[int], list[float]]] = []  # rows and their losses of the same
        self._tokens = 0  # tokens of these parts
        self._scorer: RewardModel | None = None  # None goes TRL's way
        self._head_learning_rate = own.head_learning_rate
        self._parts_asked = own.pooling, own.head
        self.left_out: Counter[str] = Counter()  # pairs of TRL's rows, by reason
        super().__init__(**theirs)
        without_repacking(self.model)  # before any trial of the model
        self.obstacle = self._obstacle(theirs.get("data_collator") is not None)
        if self.obstacle is None:
            logger.info("%s trains on the engine", type(self).__name__)
            self._use_engine(own)
        elif asked := [name for name, value in vars(own).items() if value is not None]:
            raise RunError(f"{asked[0]}= needs the engine, which does not compute {self.obstacle}")
        else:
            logger.warning("%s goes TRL's own way: %s", type(self).__name__, self.obstacle)

    def _obstacle(self, own_collator: bool) -> str | None:
        """Why TRL computes the losses; None where the engine does. A `RewardModel` has no other way."""
        if isinstance(self.model, RewardModel):
            check_one_process(self)
            return None
        return obstacle_of(self, own_collator)

    def _use_engine(self, own: RewardOptions) -> None:
        """What the engine needs beside what TRL's constructor made."""
        from rlhf_plugins.recipe.public import component

        if isinstance(self.model, RewardModel):
            self._scorer = self.model
        else:
            self._scorer = scored_by(self.model, own.pooling, own.head)
        loss = own.loss or component("reward_loss", "bradley_terry_margin")
        self._reward_losses = Losses(
            loss, self._scorer.members, lambda name, part: install(self.model, name, part.to(self.args.device))
        )
        self._reads_mates = loss.uses_batch_mates
        if processes.launched() == 1:
            compile_layers(self._scorer.trunk)
        layout = layout_of(self._scorer.trunk) if own.features is None else Layout.SEPARATE
        collator = Collator(self.processing_class.pad_token_id, layout, own.features)
        tokens, self.cuts = token_limit(own.tokens_per_batch, self.args, loss), token_limit(1, self.args, loss) == 1
        self.data_collator = Pairs(collator, tokens, own.loss is not None, loss.columns | self._scorer.columns)
        self._read_rows(own)
        prepare(self)
        if own.sampler is not None:
            known = examples(self.train_dataset)
            step = self._train_batch_size * self.args.gradient_accumulation_steps * processes.count()
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            self._draws = Draws(own.sampler.acting(), known, step, self._planned(), seed)

    def _read_rows(self, own: RewardOptions) -> None:
        """Checks that TRL's rows have what components read of them, and numbers equal rows where that matters."""
        assert self._scorer is not None
        names = columns_of(self.train_dataset)
        if "branch_ids" in names:
            return
        parts = [part for part in (own.loss, own.head, own.sampler) if part is not None]
        refuse_unread(parts, own.loss is None or own.loss.takes_probabilities, names)
        if own.loss is None and (unread := [name for name in ("weight", "probability") if name in names]):
            advice = "loss=component('reward_loss', NAME) reads them"
            logger.warning("the loss of TRL's RewardTrainer does not read the columns %s: %s", unread, advice)
        self._signature_columns = [*COLUMNS, *self.data_collator.columns]
        if own.sampler is None and not self._scorer.bootstrap:
            return
        if not hasattr(self.train_dataset, "__len__"):
            raise RunError("a sampler, and a head whose members see resampled rows, need rows that are not streamed")
        self.train_dataset = self.train_dataset.add_column(ROW, list(range(len(self.train_dataset))))

    def noted(self) -> list[tuple[Any, str]]:
        """See `TrainsInMicroBatches`."""
        return [*super().noted(), (self, "_parts"), (self, "_observed"), (self, "_tokens")]

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **more: Any) -> Any:
        """Mean loss of the batch's groups."""
        if self._scorer is None:
            return super().compute_loss(model, inputs, return_outputs, **more)
        kept: list[RankedScores] = []

        def compute() -> Tensor:
            loss, scores = self._loss(model, inputs)
            kept.append(scores)
            return loss

        loss = by_share(through(model, self.model, compute), inputs)
        logits = kept[0].scores.t().reshape(-1, 1)  # chosen responses, then rejected ones
        return (loss, SequenceClassifierOutput(logits=logits)) if return_outputs else loss

    def _loss(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, RankedScores]:
        """The mean over the groups of a batch, and what it was computed of."""
        assert self._scorer is not None
        given = inputs["features"] if "features" in inputs else BranchBatch.from_inputs(inputs)
        columns = {name: values[inputs["group"]] for name, values in in_batch(inputs).items()}  # (branches, ...)
        whole = self._scorer is self.model and processes.count() == 1
        with self.accelerator.autocast():
            prediction = (model if whole else self._scorer.forward)(given, columns)
        scores = judged(prediction, inputs, self._dimensions)
        if self._reads_mates:
            known, own = with_mates(scores, inputs)
            losses = self._losses(known)[own]
        else:
            losses = self._losses(scores)  # (groups,), or (groups, M) of an ensemble of heads
        if (coefficient := self.args.center_rewards_coefficient) is not None:
            centre = mean_over_pairs(lambda pairs: (pairs.chosen + pairs.rejected) ** 2, scores, ties=True)  # (groups,)
            losses = losses + coefficient * centre.view(-1, *[1] * (losses.dim() - 1))
        if counts(inputs):
            self._scored(scores, given.tokens if isinstance(given, BranchBatch) else 0)
            if self._draws is not None and self.model.training:
                found = losses.detach().view(len(losses), -1).mean(1).tolist()
                self._observed.append((inputs["row"].tolist(), found))
        losses = self._resampled(losses, inputs["row"]) if self._scorer.bootstrap else losses
        return mean_loss(losses, self._reward_losses.acts[0], scores, self.state.global_step), scores

    def create_optimizer(self, *given: Any) -> Any:
        """The trainer's optimizer; head and pooling get their own learning rate where the options have one."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(*given)
        if fresh and self._scorer is not None and self._head_learning_rate is not None:
            give_rate(optimizer, _own(self._scorer), self._head_learning_rate)
        return optimizer

    def _losses(self, scores: RankedScores) -> Tensor:
        """One number a group; of an ensemble of heads in training, one a group and member."""
        members = scores.prediction.members if scores.prediction is not None else None
        if members is None or not self.model.training:
            return self._reward_losses.of_rewards(scores)
        return self._reward_losses.of_members(scores)

    def _resampled(self, losses: Tensor, rows: Tensor) -> Tensor:
        """Members' losses (groups, M), each as often as its bootstrap drew the row."""
        if losses.dim() == 1:
            return losses
        if self._repeats is None:
            self._repeats = _repeats(len(self.train_dataset), losses.shape[1], self.args.seed).to(losses.device)
        return losses * self._repeats[rows]

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        """TRL's tokens, without pairs that do not fit, which are counted; what `ranked_rows` made stays as it is."""
        if "branch_ids" in columns_of(dataset):
            return dataset
        whole = copy(args)
        whole.max_length = None
        tokens = super()._prepare_dataset(dataset, processing_class, whole, dataset_name)
        fitting = Fitting(args.max_length, self.left_out, dataset_name)
        return fitting.of(tokens) if isinstance(tokens, Dataset) else tokens.filter(fitting)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "branch_ids" in (names := columns_of(self.train_dataset)):
            self._signature_columns = names

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self._draws is None else self._draws

    def _planned(self) -> int:
        """Examples that the whole training will draw."""
        batch = self._train_batch_size * self.args.gradient_accumulation_steps * processes.count()
        count = len(self.train_dataset)
        return self.args.max_steps * batch if self.args.max_steps > 0 else ceil(self.args.num_train_epochs * count)

    def save_reward_model(self, folder: str | Path) -> None:
        """Writes the reward model as a stage does: `load_reward_model` opens it, and a recipe's reward `saved`.

        Raises:
            RunError: the training goes TRL's own way, or the folder cannot hold such a model.
        """
        from rlhf_plugins.trainers.reward.classifier_saved import save_as_ours

        if self._scorer is None or isinstance(self.model, RewardModel):
            raise RunError("save_reward_model writes a classifier that the engine trains; use save_model")
        save_as_ours(self._scorer, self._parts_asked, Path(folder))

    def stateful(self) -> dict[str, Any]:
        """What a checkpoint asks for a state beside the trainer's; a loss with weights is in the model."""
        if self._scorer is None:
            return {}
        return {**self._reward_losses.stateful(), "order": self._draws}

    def train(self, *given: Any, **named: Any) -> Any:
        """Trains; afterwards the model scores as it does once it is saved and opened again.

        accelerate leaves its mixed precision around `forward`, where ours is around each pass of the training alone.
        """
        try:
            return super().train(*given, **named)
        finally:
            if self._scorer is not None:
                self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

    def training_step(self, *given: Any) -> Tensor:
        """The batch's loss; its gradients are accumulated, and what it scored is noted for the log."""
        loss = super().training_step(*given)
        self._note_batch()
        return loss

    def prediction_step(self, *given: Any, **options: Any) -> Any:
        """The batch's loss, and its rewards (2 pairs, 1) if they are asked: chosen ones, then rejected ones."""
        self.note_rows(given[1])
        found = super().prediction_step(*given, **options)
        self._note_batch()
        return found

    @property
    def gather_function(self) -> Any:
        """What Trainer gathers losses and rewards with; of the last batch it keeps as many numbers as there are rows.

        Rewards are two a row, and so are kept whole, where TRL loses some.
        """
        if self._scorer is None:
            return self._gather
        if processes.count() > 1:
            return self.shared_losses
        return lambda values, **options: values if rewards(values) else self._gather(values, **options)

    @gather_function.setter
    def gather_function(self, function: Any) -> None:
        self._gather = function

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the numbers that were noted since the last log, under TRL's names."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        if self._scorer is not None and metrics:
            metrics["num_tokens"] = [self._total_train_tokens]
        super().log(logs, start_time)

    @torch.no_grad()
    def _scored(self, scores: RankedScores, tokens: int) -> None:
        """Keeps what a part of a batch scored."""
        pairs = comparisons(scores)
        gaps = scores.scores[pairs.group, pairs.better] - scores.scores[pairs.group, pairs.worse]
        self._parts.append((scores.scores.detach(), scores.present, gaps.detach()))
        self._tokens += tokens if self.model.training else 0

    def _note_batch(self) -> None:
        """Notes what all parts of a batch scored, of all processes: the range of its rewards once, the others reward
        by reward; and shows the order of training their losses."""
        if self._scorer is None:
            return
        own, _ = attempted(numbers, self._parts)
        if own is None:  # the gradients are there: only the numbers are read again
            release_memory()
            own = numbers(self._parts)
        found = processes.gathered((own, self._observed, self._tokens))
        self._parts, self._observed, self._tokens = [], [], 0
        self._total_train_tokens += sum(tokens for _, _, tokens in found)
        for rows, losses in processes.joined([observed for _, observed, _ in found]):
            assert self._draws is not None
            self._draws.observe(rows, losses)
        parts = processes.joined([each for each, _, _ in found])
        rewards, gaps = (processes.joined([part[side] for part in parts]) for side in (0, 1))
        if not rewards:
            return
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["min_reward"].append(min(rewards))
        metrics["max_reward"].append(max(rewards))
        metrics["mean_reward"] += rewards
        if gaps:
            metrics["accuracy"] += [float(gap > 0) for gap in gaps]
            metrics["margin"] += gaps


def numbers(parts: list[Scored]) -> list[tuple[list[float], list[float]]]:
    """The rewards and the gaps of each record."""
    return [(each[present.bool()].tolist(), gaps.tolist()) for each, present, gaps in on_the_host(parts)]


def on_the_host(parts: list[Scored]) -> list[Scored]:
    """Records of tensors, copied together: one answer of a GPU is waited for."""
    every = [each for part in parts for each in part]
    if not every:
        return []
    flat = torch.cat([each.flatten() for each in every]).cpu().split([each.numel() for each in every])
    moved = [one.view(each.shape) for one, each in zip(flat, every, strict=True)]
    return [(moved[at], moved[at + 1], moved[at + 2]) for at in range(0, len(moved), 3)]


def rewards(values: Any) -> bool:
    """Whether they are rewards of responses (2 pairs, 1), not losses of pairs."""
    return isinstance(values, Tensor) and values.dim() > 1


def _own(model: RewardModel) -> list[nn.Parameter]:
    """The weights of head and pooling."""
    parts = [part for part in (model.head, model.pooling) if isinstance(part, nn.Module)]
    return [weights for part in parts for weights in part.parameters()]


def _repeats(rows: int, members: int, seed: int) -> Tensor:
    """How often each member of an ensemble of heads sees each row, (rows, M): Poisson(1), the online bootstrap.

    The bootstrap of n rows draws each Binomial(n, 1/n) times, which tends to Poisson(1) (Oza and Russell 2001).
    """
    return torch.from_numpy(np.random.default_rng(seed).poisson(1.0, (rows, members))).float()
