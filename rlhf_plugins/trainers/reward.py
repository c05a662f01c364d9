"""Trains a reward model with any loss on judged groups: RewardTrainer with its rows, batch and loss replaced."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import torch
import trl
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlhf_plugins.arithmetic.ranking import comparisons, per_group
from rlhf_plugins.contract.interfaces import RewardLoss, Sampler
from rlhf_plugins.contract.records import RankedScores
from rlhf_plugins.data.branches import BranchBatch, Layout
from rlhf_plugins.data.numeric import in_batch
from rlhf_plugins.data.ranked import Collator, RankedRows, judged
from rlhf_plugins.engine.probing import layout_of
from rlhf_plugins.reward_models.reward_model import RewardModel
from rlhf_plugins.trainers.arguments import mean_loss, prepare
from rlhf_plugins.trainers.draws import Draws, Examples
from rlhf_plugins.trainers.micro_batches import TrainsInMicroBatches, by_share, in_micro_batches, token_limit


@dataclass(frozen=True)
class RewardOptions:
    """Options of a training that TRL's configuration lacks."""

    sampler: Sampler | None = None  # draws the batches; None shuffles as transformers does
    features: Tensor | None = None  # of every response in the rows' order, (responses, width): the trunk is frozen
    head_learning_rate: float | None = None  # of head and pooling; None is the trainer's
    tokens_per_batch: int | None = None  # most tokens in memory at once, padding included


class RewardTrainer(TrainsInMicroBatches, trl.RewardTrainer):
    """RewardTrainer for a RewardModel, any reward loss, and groups in place of pairs.

    Args:
        model: its weights that require gradients are trained.
        loss: weights of its own are trained beside the model's, and are not saved.
        args: TRL's configuration; a batch is `per_device_train_batch_size` groups.
        train: what `ranked_rows` made.
        tokenizer: pads, and is saved with a checkpoint.
        options: those that TRL's configuration lacks.
    """

    def __init__(
        self,
        model: RewardModel,
        loss: RewardLoss,
        args: trl.RewardConfig,
        train: RankedRows,
        tokenizer: PreTrainedTokenizerBase,
        options: RewardOptions = RewardOptions(),  # noqa: B008 (frozen)
    ) -> None:
        layout = layout_of(model.trunk) if options.features is None else Layout.SEPARATE
        collator = Collator(tokenizer.pad_token_id, layout, options.features)
        tokens = token_limit(options.tokens_per_batch, args, loss)
        made: Any = loss.acting()
        if isinstance(made, nn.Module):
            model.add_module("loss", made.to(model.trunk.device))
        self._reward_loss, self._dimensions = made, train.dimensions
        self._draws: Draws | None = None
        super().__init__(
            model=model,
            args=args,
            data_collator=lambda rows: in_micro_batches(rows, collator.groups, tokens, layout, collator),
            train_dataset=train.dataset,
            processing_class=tokenizer,
        )
        prepare(self)
        self._bootstrap = model.bootstrap
        self._head_learning_rate = options.head_learning_rate
        self._repeats: Tensor | None = None
        if options.sampler is not None:
            known = Examples(*(train.dataset[name][:] for name in ("length", "difficulty", "topic")))
            self._draws = Draws(options.sampler, known, self._train_batch_size, self._planned(), args.seed)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """Mean loss of the batch's groups."""
        given = inputs["features"] if "features" in inputs else BranchBatch.from_inputs(inputs)
        columns = {name: values[inputs["group"]] for name, values in in_batch(inputs).items()}  # (branches, ...)
        scores = judged(model(given, columns), inputs, self._dimensions)
        losses = self._losses(scores)  # (groups,), or (groups, M) of an ensemble of heads
        if self._draws is not None and self.model.training:
            self._draws.observe(inputs["row"].tolist(), losses.detach().view(len(losses), -1).mean(1).tolist())
        losses = self._resampled(losses, inputs["row"])
        loss = mean_loss(losses, self._reward_loss, scores, self.state.global_step)
        self._record(scores)
        loss = by_share(loss, inputs)
        return (loss, {"scores": scores.scores}) if return_outputs else loss

    def create_optimizer(self, *given: Any) -> Any:
        """As the trainer's, with head and pooling at a rate of their own where the options say so."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(*given)
        if fresh and self._head_learning_rate is not None:
            _split(optimizer, _own(self.model), self._head_learning_rate)
        return optimizer

    def _losses(self, scores: RankedScores) -> Tensor:
        """One number a group; of an ensemble of heads in training, one a group and member."""
        members = scores.prediction.members if scores.prediction is not None else None
        if members is None or not self.model.training:
            return per_group(self._reward_loss, scores)
        each = [per_group(self._reward_loss, _member(scores, m)) for m in range(members.shape[-1])]
        return torch.stack(each, 1)

    def _resampled(self, losses: Tensor, rows: Tensor) -> Tensor:
        """Members' losses (groups, M), each as often as its bootstrap drew the row."""
        if losses.dim() == 1 or not self._bootstrap:
            return losses
        if self._repeats is None:
            self._repeats = _repeats(len(self.train_dataset), losses.shape[1], self.args.seed).to(losses.device)
        return losses * self._repeats[rows]

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """The rows are tokens already."""
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = self.train_dataset.column_names

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self._draws is None else self._draws

    def _planned(self) -> int:
        """Examples that the whole training will draw."""
        batch, count = self._train_batch_size * self.args.gradient_accumulation_steps, len(self.train_dataset)
        return self.args.max_steps * batch if self.args.max_steps > 0 else ceil(self.args.num_train_epochs * count)

    @torch.no_grad()
    def _record(self, scores: RankedScores) -> None:
        metrics = self._metrics["train" if self.model.training else "eval"]
        pairs = comparisons(scores)
        metrics["reward_mean"] += scores.scores[scores.present].tolist()
        if len(pairs.group):
            gap = scores.scores[pairs.group, pairs.better] - scores.scores[pairs.group, pairs.worse]
            metrics["accuracy"] += (gap > 0).float().tolist()
            metrics["reward_margin"] += gap.tolist()


def _own(model: RewardModel) -> set[int]:
    """The identities of the weights of head and pooling."""
    parts = [part for part in (model.head, model.pooling) if isinstance(part, nn.Module)]
    return {id(weights) for part in parts for weights in part.parameters()}


def _split(optimizer: torch.optim.Optimizer, own: set[int], rate: float) -> None:
    """Moves some weights of every group to a group with another learning rate."""
    for group in list(optimizer.param_groups):
        moved = [weights for weights in group["params"] if id(weights) in own]
        group["params"] = [weights for weights in group["params"] if id(weights) not in own]
        if moved:
            optimizer.add_param_group({**group, "params": moved, "lr": rate})


def _member(scores: RankedScores, member: int) -> RankedScores:
    """What the loss sees of one member of an ensemble."""
    assert scores.prediction is not None
    rewards = scores.prediction.members[..., member]  # type: ignore[index]
    return replace(scores, scores=rewards, prediction=replace(scores.prediction, reward=rewards, members=None))


def _repeats(rows: int, members: int, seed: int) -> Tensor:
    """How often each member of an ensemble of heads sees each row, (rows, M): Poisson(1), the online bootstrap.

    The bootstrap of n rows draws each Binomial(n, 1/n) times, which tends to Poisson(1) (Oza and Russell 2001).
    """
    return torch.from_numpy(np.random.default_rng(seed).poisson(1.0, (rows, members))).float()
