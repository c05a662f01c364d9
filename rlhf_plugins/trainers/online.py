"""Trains a policy on its own samples: GRPOTrainer with its rollout, forward pass and loss replaced.

TRL keeps the sampling of prompts, the generation and the schedule of minibatches; the arithmetic is the components'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_plugins.arithmetic import objectives
from rlhf_plugins.contract.guards import named
from rlhf_plugins.contract.interfaces import KL, Advantage, PolicyLoss, Reduction
from rlhf_plugins.contract.records import Prediction
from rlhf_plugins.contract.rollout import ScoredResponses
from rlhf_plugins.contract.rows import Samples
from rlhf_plugins.data.branches import BranchBatch
from rlhf_plugins.data.groups import COLUMNS, batch_columns
from rlhf_plugins.engine import cost
from rlhf_plugins.engine.cpu.decoding import own_decoding_loop
from rlhf_plugins.engine.cpu.folding import folded
from rlhf_plugins.engine.cpu.memory import keep_freed_memory_of_process
from rlhf_plugins.engine.sampling import Decoding, sample, without_generation_defaults
from rlhf_plugins.errors import RunError
from rlhf_plugins.trainers.arguments import check_one_process, check_rows, train_in_float32
from rlhf_plugins.trainers.belts import Guard
from rlhf_plugins.trainers.critic import Critic
from rlhf_plugins.trainers.episodes import Episodes, Minibatch, Piece
from rlhf_plugins.trainers.exploration import exploring
from rlhf_plugins.trainers.passes import Passes, Seen
from rlhf_plugins.trainers.pieces import most_tokens
from rlhf_plugins.trainers.rollouts import Rollouts
from rlhf_plugins.trainers.scoring import Scorer
from rlhf_plugins.trainers.settings import PLAIN, Exploration, Oversight, Value
from rlhf_plugins.trainers.shares import Share, adds_up, shares
from rlhf_plugins.trainers.watch import Watch


@dataclass(frozen=True)
class Objective:
    """What the policy is to maximise, as built components and numbers."""

    score: Callable[[Samples], Prediction]
    advantage: Advantage
    policy_loss: PolicyLoss
    reduction: Reduction
    kl: KL
    shaping: Sequence[Callable[[ScoredResponses], Tensor]] = ()
    value: Value = Value()
    entropy_coef: float = 0.0  # Huang et al. 2024
    stop_kl: float | None = None  # nats per token
    exploration: Exploration | None = None


@dataclass(frozen=True)
class Options:
    """What a training may be given beside TRL's configuration.

    Without a `reference`, it is the policy with its adapters off.
    """

    reference: Any = None  # where all weights are trained
    tokens_per_batch: int | None = None  # most tokens in memory at once, padding included
    oversight: Oversight = Oversight()


class OnlineTrainer(trl.GRPOTrainer):
    """GRPOTrainer for an objective, with a critic where its estimator needs one.

    A minibatch of more than `options.tokens_per_batch` tokens is trained in pieces, to the same gradients, unless
    something needs it whole (`pieces.most_tokens`, `shares.adds_up`).

    Raises:
        RunError: the options contradict one another, or (while training) a belt closes or a chat template refuses.
        PluginError: a component fails.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        args: trl.GRPOConfig,
        train: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        options: Options = Options(),  # noqa: B008 (frozen)
    ) -> None:
        _refuse(objective, args)
        super().__init__(
            model=model,
            reward_funcs=lambda **_: [],  # TRL asks for one; `Scorer` calls ours
            args=args,
            train_dataset=train,
            processing_class=tokenizer,
        )
        check_one_process(self)
        check_rows(self)
        train_in_float32(self.model)
        keep_freed_memory_of_process(self.args.device)
        self._objective, self._reference = objective, options.reference
        folder, oversight = Path(args.output_dir), options.oversight
        self._watch = Watch(folder, oversight.table, oversight.gold)
        self._guard = Guard(oversight.belts, folder, lambda: self.state.global_step)
        self._critic = Critic(self.model, objective.value.adapter) if objective.advantage.reads_values else None
        self._passes = Passes(
            self.model,
            options.reference,
            self._critic,
            self._tokenizer.pad_token_id,
            self.temperature,
            self.accelerator.autocast,
        )
        self._rollouts = self._plan(options.tokens_per_batch)
        self._kl_coef = self._next_kl_coef = objective.kl.coef
        self._looked: Seen | None = None  # until it is used
        self._columns: dict[str, list[Any]] = {}  # of this rollout's prompts, a value for each response
        self._episodes: Episodes | None = None  # None: the rest of this rollout's minibatches are skipped
        self._skips: list[float] = []  # of each minibatch so far: 1 where it was skipped

    def take_value_head(self) -> dict[str, Tensor]:
        """Takes the value head off the policy, which then is a plain model again; empty if no critic was trained."""
        return self._critic.take_off() if self._critic else {}

    @property
    def rollouts_shown(self) -> list[dict[str, Any]]:
        """Responses from the beginning and the end of the training, with their step and numbers."""
        return self._watch.shown

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains. Raises RunError when asked to go on from a checkpoint, which holds neither rollout nor critic."""
        if resume_from_checkpoint:
            raise RunError(
                "a training on a policy's own samples cannot go on from a checkpoint, which holds neither the rollout "
                "in use, nor the critic, nor what the reward was normalised by; start the stage again"
            )
        return super().train(None, *args, **kwargs)

    def _plan(self, tokens: int | None) -> Rollouts:
        aim = self._objective
        tokens = most_tokens(tokens, self.args, aim.policy_loss, aim.reduction, aim.kl)
        scorer = Scorer(aim.score, aim.shaping, frozenset(self.eos_token_ids))
        return Rollouts(
            sample=self._sample,
            greedy=self._greedy,
            passes=self._passes,
            scorer=scorer,
            advantage=aim.advantage,
            kl=aim.kl,
            exploration=aim.exploration,
            group=self.num_generations,
            size=self.args.per_device_train_batch_size,
            tokens=tokens if tokens and adds_up(aim.reduction) else None,
        )

    def _sample(self, prompts: Sequence[Any]) -> Samples:
        own_distribution = without_generation_defaults(self.model)
        exploration = exploring(self.model, self._objective.exploration, self.temperature)
        try:
            with folded(self.model), own_distribution, own_decoding_loop(self.model), exploration:
                prompt_ids, response_ids, _, completions, *_ = self._generate(list(prompts))
        except TemplateError as error:
            raise RunError(f"the chat template refuses a prompt of this rollout: {error}") from error
        cost.add(generated_tokens=sum(map(len, response_ids)))
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        return Samples(prompts, texts, prompt_ids, response_ids, self._columns)

    def _greedy(self, prompts: Sequence[Any]) -> Samples:
        decoding = Decoding(self.max_completion_length, temperature=0.0)
        columns = {name: values[:: self.num_generations] for name, values in self._columns.items()}
        return replace(sample(self.model, self._tokenizer, prompts, decoding=decoding), columns=columns)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns: list[str] = [*{*self._signature_columns, COLUMNS}]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Rolls out once a generation cycle; a minibatch that is to be skipped leaves gradients and weights alone."""
        if self._place() == 0:
            self.model.train()
            self._columns = batch_columns(inputs)
            self._episodes = self._roll_out([row["prompt"] for row in inputs])
        self._skips.append(float(self._episodes is None))
        self._note(skipped=self._skips[-1])
        if self._episodes is not None:
            step: Tensor = super().training_step(model, inputs, num_items_in_batch)
            return step
        self._step += 1
        return torch.zeros((), device=self.accelerator.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs; a loss is the mean over the minibatches that were trained on, and left out where there was none."""
        for name, skips in (("loss", self._metrics["train"].get("skipped", [])), ("train_loss", self._skips)):
            trained = skips.count(0.0)
            if name in logs and trained < len(skips):
                mean = logs.pop(name) * len(skips)
                logs |= {name: mean / trained} if trained else {}
        super().log(logs, start_time)

    def _place(self) -> int:
        """Which minibatch of the generation cycle this is, from 0."""
        place: int = self._step % (self.args.steps_per_generation * self.num_iterations)
        return place

    def _prepare_inputs(self, inputs: Any) -> Minibatch:
        """The minibatch whose turn it is; what TRL's loader gives are the prompts of the whole rollout."""
        assert self._episodes is not None
        return self._episodes.minibatches[self._place() % self.args.steps_per_generation]

    def _roll_out(self, prompts: Sequence[Any]) -> Episodes | None:
        self._kl_coef = self._next_kl_coef
        seen = self._rollouts.make(prompts, self._kl_coef)
        numbers = self._watch.rollout(seen, self.state.global_step)
        self._note(**numbers, kl_coef=self._kl_coef)
        self._next_kl_coef = self._objective.kl.adapted(self._kl_coef, numbers["kl"], len(seen.scores))
        trained = self._guard.rollout(seen)
        self._looked = seen.looked if trained else None
        return replace(seen, looked=None) if trained else None

    def _seen(self, batch: BranchBatch) -> Seen:
        """What policy and critic say of a piece, which the rollout that it alone is was told already."""
        looked, self._looked = self._looked, None
        return looked or self._passes.policy(batch, entropy=self._objective.entropy_coef > 0)

    def _compute_loss(self, model: Any, inputs: Minibatch) -> Tensor:
        """The minibatch's loss; of one in pieces, the gradients of all but the last are added up here already."""
        masks = [piece.batch.response_mask() for piece in inputs.pieces]
        told, loss = list[dict[str, float]](), torch.zeros(())
        for piece, share in zip(inputs.pieces, shares(masks, self._objective.reduction), strict=True):
            if loss.requires_grad:
                self.accelerator.backward(loss)
            own, numbers = self._part(piece, share)
            loss = own / self.current_gradient_accumulation_steps + loss.detach()
            told.append(numbers)
        whole = {name: sum(part[name] for part in told) for name in told[0]}
        self._note(**whole)
        if self._objective.stop_kl is not None and whole["approx_kl"] > self._objective.stop_kl:
            self._episodes = None  # the policy moved away: what is left of the rollout is skipped
        return loss

    def _part(self, piece: Piece, share: Share) -> tuple[Tensor, dict[str, float]]:
        """Policy, KL, value and entropy terms of a piece, as its share of the minibatch's, and of what is logged.

        Raises:
            RunError: the loss is not finite.
        """
        aim, mask = self._objective, piece.batch.response_mask()
        seen = self._seen(piece.batch)
        log_ratio = seen.log_probs - piece.log_probs
        losses = aim.policy_loss(log_ratio, piece.advantages)
        pull = aim.kl(seen.log_probs - piece.reference).on_loss
        loss = share.reduced(losses if pull is None else losses + self._kl_coef * pull, mask)
        clipped = (losses != -piece.advantages * log_ratio.exp()).float()
        told = {
            "policy_loss": loss,
            "clip_fraction": share.mean(clipped, mask),
            "approx_kl": share.tokens * objectives.moved(log_ratio.detach(), mask),
        }
        if aim.entropy_coef and seen.entropies is not None:
            loss = loss - aim.entropy_coef * share.mean(seen.entropies, mask)
        if seen.values is not None and piece.values is not None:
            errors = objectives.clipped_value_loss(seen.values, piece.values, piece.returns, aim.value.clip)
            told["value_loss"] = share.mean(errors, mask)
            loss = loss + aim.value.coef * told["value_loss"]
        assert self._episodes is not None
        self._guard.loss(loss, self._episodes, piece.rows.tolist())
        return loss, {name: value.item() for name, value in told.items()}

    def _note(self, **numbers: Tensor | float) -> None:
        for name, value in numbers.items():
            self._metrics["train"][name].append(float(value.detach() if isinstance(value, Tensor) else value))


def _refuse(objective: Objective, args: trl.GRPOConfig) -> None:
    """Raises for what could not be trained, or not as it is asked for."""
    estimator = objective.advantage
    fewest = estimator.min_group
    if args.num_generations < fewest:
        raise RunError(
            f"{named(estimator)} compares the responses to a prompt: num_generations is {args.num_generations}, "
            f"and it needs {fewest} or more"
        )
    cut = [name for name, value in PLAIN.items() if getattr(args, name) != value]
    if objective.exploration and cut:
        raise RunError(f"exploration: with {cut[0]} the mixture would not be what samples; leave {cut[0]} out")
